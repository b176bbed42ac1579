from dihal_core.training.phases import Phases


def test_phases_run_from_zero_to_one_hundred_in_order():
    seen = []
    phases = Phases(lambda done, total, unit: seen.append((done, total, unit)), {"a": 10, "b": 30, "c": 60})
    for name in ("a", "b", "c"):
        for done in range(3):
            phases.of(name)(done, 2, "steps")
    assert [done for done, _, _ in seen] == [0, 5, 10, 10, 25, 40, 40, 70, 100]
    assert {(total, unit) for _, total, unit in seen} == {(100, "%")}
