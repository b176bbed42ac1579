from dihal_core.reporting.page import tables_of
from dihal_core.reporting.tables_study import (
    corpus_table,
    difference_table,
    evaluation_table,
    gate_table,
    reject_table,
    split_table,
    training_table,
)


def test_token_shares_of_the_sources_sum_to_one(data):
    rows = corpus_table(data["corpus"]).rows
    assert sum(row["share"] for row in rows) == 1.0
    assert rows[0]["train_tokens"] == 363_000
    assert rows[0]["rejected"] == 44


def test_splits_come_train_first_and_rejects_most_frequent_first(data):
    assert [row["split"] for row in split_table(data["corpus"]).rows] == ["train", "heldout", "eval_wiki"]
    assert [row["count"] for row in reject_table(data["corpus"]).rows] == [123, 9, 0]


def test_an_uncaught_leaky_control_is_said_loudly(data):
    assert gate_table(data["gates"]).rows[-1]["required"] == "above 0: caught"
    data["gates"]["leak"]["control"]["caught"] = False
    assert gate_table(data["gates"]).rows[-1]["required"] == "above 0: NOT caught"


def test_leak_gates_of_backbone_and_trained_arms_have_rows(data):
    rows = gate_table(data["gates"], data["evaluate"]["heldout"]["leak"]).rows
    names = [row["gate"] for row in rows]
    assert "leak: change before the cut, backbone itself" in names
    assert "leak: change before the cut, ridge map (trained weights)" in names
    assert all(row["measured"] == 0.0 for row in rows[:-1])


def test_every_arm_has_its_row_teacher_first(data):
    table = evaluation_table(data["evaluate"]["heldout"])
    assert [row["label"] for row in table.rows][:3] == [
        "teacher",
        "bridge (diffusion), 1 step",
        "bridge (diffusion), 4 steps",
    ]
    assert table.cells()[0][2] == "\u2013"


def test_differences_name_both_arms(data):
    pairs = [row["pair"] for row in difference_table(data["evaluate"]["heldout"]).rows]
    assert "bridge (diffusion), 1 step \u2212 ridge map" in pairs


def test_training_table_names_the_layer(data):
    table = training_table(data["replace"])
    assert table.caption == "Arms trained at layer 1"
    assert [row["fvu"] for row in table.rows] == [0.231, 0.239, 0.246, 1.9]


def test_what_the_vae_loses_is_a_row_per_layer_and_absent_without_one(data, results_for):
    assert "vae" not in tables_of(results_for(data))
    measured = {"states": 256, "state_fvu": 0.31, "projection_fvu": 0.0, "untrained_state_fvu": 0.4, "image_fvu": 0.2}
    data["sweep"][3]["vae"] = measured
    data["replace"]["vae"] = measured
    table = tables_of(results_for(data))["vae"]
    assert [row["where"] for row in table.rows] == ["sweep, layer 3", "full training, layer 1"]
    assert "0.310" in table.markdown()
