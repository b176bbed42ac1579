import json

import pytest

from dihal_core.reporting.tables_cost import cost_table, steps_table


def interval(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


@pytest.fixture
def cost():
    row = {"kl": interval(0.2), "nll": interval(3.1), "ppl": interval(22.0), "top1": interval(0.8)}
    flops = {
        "replaced blocks": 7e6,
        "kept blocks": 2e8,
        "head": 6e7,
        "backbone": 2.67e8,
        "bridge@1": 6e6,
        "hybrid@1": 2.66e8,
    }
    return {
        "layer": 1, "set": "eval_wiki", "windows": 12, "documents": 12, "tokens": 1500,
        "teacher": {"nll": interval(3.0), "ppl": interval(20.0)},
        "curve": {"1": {**row, "kl_difference": None}, "4": {**row, "kl_difference": interval(-0.02)}},
        "flops_per_token": flops, "timed": {"windows": 4, "positions": 128, "rounds": 5},
    }  # fmt: skip


def test_every_number_of_steps_is_a_row_and_the_subset_is_stated(cost):
    table = steps_table(cost)
    assert [row["label"] for row in table.rows] == ["1", "4", "teacher"]
    assert "12 windows of 12 documents" in table.caption
    assert "1,500 tokens" in table.caption
    assert "−0.0200 [−0.0300, −0.0100]" in table.markdown()


def test_seconds_stand_beside_flops_and_their_absence_is_a_dash(cost):
    spread = {"median": 5e-4, "low": 4e-4, "high": 9e-4}
    seconds = {"backbone": spread, "hybrid@1": spread, "hybrid@1 / backbone": {"median": 0.98, "low": 0.9, "high": 1.1}}
    text = cost_table(cost, seconds).markdown()
    assert "0.980 [0.900, 1.100]" in text
    assert "replaced: embedding and block 1 " in text
    assert "0.500 [0.400, 0.900]" in text
    assert "None" not in cost_table(cost, {}).markdown() + json.dumps(cost_table(cost, {}).csv())
