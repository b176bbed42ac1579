import pytest

from dihal_core.reporting.ablation import ablation_table, answer_lines, markdown_page


def interval(value, width=0.01):
    return {"value": value, "low": value - width, "high": value + width}


def row(name, kl, difference=None, control=False, steps=None, seeds=3):
    arm = name.partition("@")[0]
    return {
        "row": name, "arm": arm, "label": arm, "sampling_steps": steps, "control": control, "kind": "mlp", "seeds": seeds,
        "parameters": 7, "steps": 40, "tokens": 4000, "ridge_states": 900, "training_flops": 9, "forward_flops": 2e6,
        "fvu": {"values": [0.1, 0.2], "median": 0.15, "low": 0.1, "high": 0.2},
        "kl": interval(kl), "nll": interval(3.0), "ppl": interval(20.0, 1.0), "top1": interval(0.8),
        "kl_seeds": {"values": [kl], "median": kl, "low": kl, "high": kl},
        "ppl_seeds": {"values": [20.0], "median": 20.0, "low": 20.0, "high": 20.0},
        "ppl_to_teacher": interval(1.1), "kl_to_ridge": interval(0.6), "kl_to_ridge_all": interval(0.7), "kl_difference": difference,
        "nll_difference": difference, "seeds_compared": 3, "seeds_below": 2,
    }  # fmt: skip


def comparison(*rows):
    return {
        "layer": 1, "set": "eval_wiki", "conventions": {"kl": "nats"}, "documents": 30, "tokens": 20_500,
        "confidence": 0.95, "reference": "mlp@1", "teacher": {"nll": interval(2.9), "ppl": interval(18.0, 1.0)},
        "rows": [row("mlp@1", 0.2, steps=1), *rows],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "told"),
    [(-0.05, "A CONTROL WINS: regressor (KL 0.150) beats the mlp, 1 step (KL 0.200)"),
     (0.05, "the mlp, 1 step (KL 0.200) beats every control; the closest, regressor"),
     (0.005, "NOT DECIDED: the KL of the regressor (KL 0.205) is not lower"),
     (-0.005, "NOT DECIDED: the KL of the regressor (KL 0.195) is lower")],
)  # fmt: skip
def test_the_first_line_says_whether_a_control_wins(difference, told):
    control = row("regressor", 0.2 + difference, interval(difference), control=True)
    worse = row("ridge-3", 0.4, interval(0.2), control=True)
    first = answer_lines(comparison(worse, control), "test")[0]
    assert told in first
    assert "below it in 2 of 3 seeds" in first


def test_one_training_is_said_to_be_one():
    found = comparison(row("regressor", 0.25, interval(0.05), control=True))
    assert "one training each" not in answer_lines(found, "test")[0]
    found["rows"][0]["seeds"] = 1
    assert "one training each" in answer_lines(found, "test")[0]


def test_a_comparison_without_controls_or_bridges_says_so():
    assert "no control was compared" in answer_lines(comparison(row("unet@1", 0.3, interval(0.1), steps=1)), "test")[0]
    alone = comparison()
    alone["rows"][0]["control"] = True
    assert "no diffusion bridge was compared" in answer_lines(alone, "test")[0]


def test_an_interval_that_could_not_be_drawn_is_no_victory():
    bare = {"value": -0.1, "low": None, "high": None}
    assert "NOT DECIDED" in answer_lines(comparison(row("skip", 0.1, bare, control=True)), "test")[0]


def test_the_lowest_kl_is_named_whoever_has_it_and_so_is_the_budget():
    lines = answer_lines(
        comparison(row("unet@1", 0.1, interval(-0.1), steps=1, seeds=1), row("mlp@4", 0.3, interval(0.1), steps=4)),
        "test",
    )
    assert lines[1].startswith("Lowest KL  unet, 1 step: KL 0.100")
    assert any("mlp, 4 steps: KL minus that of the mlp, 1 step 0.100" in line for line in lines)
    assert "40 steps, 4,000 tokens; 1 or 3 seeds; scored 20,500 tokens of 30 documents" in lines[-1]


def test_table_and_page_hold_every_row_with_budget_and_seconds():
    found = comparison(row("ridge-3", 0.4, interval(0.2), control=True, seeds=1))
    table = ablation_table(found, {"mlp": {"wall_seconds": 12.5, "cpu_seconds": 20.25}})
    page = markdown_page("model", "study", 0, found, table, answer_lines(found, "test"), "test")
    assert "| **mlp, 1 step** |" in page
    assert "0.1500 (0.1000 to 0.2000)" in page
    assert "nan" not in page.lower().replace("finance", "")
    assert "None" not in page
    lines = table.csv().splitlines()
    assert len(lines) == 3
    assert "12.5,20.25,2.0" in lines[1]


@pytest.mark.parametrize(("part", "told"), [("development", "is for choosing"), ("test", "is for quoting")])
def test_page_and_answer_say_which_half_was_scored_and_why(part, told):
    found = comparison(row("ridge-3", 0.4, interval(0.2), control=True, seeds=1))
    lines = answer_lines(found, part)
    assert f"{part} half" in lines[-1]
    page = markdown_page("model", "study", 0, found, ablation_table(found, {}), lines, part)
    assert f"- Scored: the {part} half of the evaluation documents, which {told}" in page
