"""A sweep with several seeds in the report: its section, tables, limits and ledger; a single seed shows none of it."""

import jinja2
import numpy as np
import pytest

from dihal_core.geometry.seeds import seed_agreement
from dihal_core.reporting.answer import build_answer
from dihal_core.reporting.artifacts import markdown_agreement
from dihal_core.reporting.ledger import _trained
from dihal_core.reporting.page import limits_of, page_of, tables_of
from dihal_core.reporting.pictures import pictures_of
from dihal_core.reporting.report import render_html
from dihal_core.reporting.tables_seeds import seed_tables


@pytest.fixture
def seeded(data):
    """The synthetic study with three trainings per layer; at layer 3 the second is no better than its ridge."""
    rng = np.random.default_rng(0)
    for layer, block in data["sweep"].items():
        bridge = block["arms"]["bridge"]
        block["seeds"] = []
        for index in range(3):
            fvu = bridge["fvu"] * (1 + 0.01 * index * rng.standard_normal())
            part = {"document": [1, 2], "sse": [3 * fvu, 4 * fvu], "sst": [3.0, 4.0]}
            block["seeds"].append(
                {
                    "seed": index,
                    "arms": {"bridge": {**bridge, "fvu": fvu}},
                    "per_document": {"bridge": part},
                    "improves_on_ridge": (layer, index) != (3, 1),
                }
            )
    scores = {row["layer"]: row["score"]["value"] for row in data["score"]["layers"] if row["candidate"]}
    replicate_BL = np.array(list(scores.values())) + rng.normal(0, 0.1, (40, len(scores)))
    data["agreement"]["seeds"] = seed_agreement(
        data["sweep"], scores, replicate_BL, list(scores), ("fvu", "kl", "nll"), 50, 0.95, 0
    )
    return data


def variables(results):
    return page_of(results, build_answer(results), pictures_of(results), tables_of(results))


def test_the_section_stands_in_the_page_and_its_contents(seeded, results_for):
    html = render_html(variables(results_for(seeded)), jinja2.StrictUndefined)
    assert '<section id="seeds">' in html
    assert 'href="#seeds"' in html
    assert "trained 3 times on the same data" in html
    assert "In 1 of 84 trainings the bridge does not improve on its frozen ridge (layer 3)" in html


def test_one_seed_shows_no_section_no_table_and_says_so(data, results_for):
    results = results_for(data)
    shown = variables(results)
    assert "seeds" not in shown["tables"]
    assert shown["seeds"] is None
    assert "seeds" not in dict(shown["sections"])
    assert any(limit.startswith("One seed (0).") for limit in limits_of(results, None))


def test_limits_say_which_part_had_several_seeds(seeded, results_for):
    limits = limits_of(results_for(seeded), None)
    assert any("One seed (0) but for the sweep, which trained 3 times at every layer." in limit for limit in limits)


def test_tables_hold_spread_and_flag_per_layer_and_agreement_per_loss(seeded):
    agreement, layers = seed_tables(seeded["agreement"])
    assert [row["loss"].partition(" ")[0] for row in agreement.rows] == ["fraction", "KL(teacher", "negative"]
    assert agreement.marks[0] == "selected"
    assert agreement.rows[0]["between"]["low"] <= agreement.rows[0]["between"]["value"]
    by_layer = {row["layer"]: row for row in layers.rows}
    assert by_layer[3]["own"] == "seed 1"
    assert by_layer[4]["own"] == "no seed"
    values = [block["arms"]["bridge"]["fvu"] for block in seeded["sweep"][9]["seeds"]]
    assert by_layer[9]["fvu"] == {"value": pytest.approx(np.mean(values)), "low": min(values), "high": max(values)}
    assert all(len(cells) == len(layers.columns) for cells in layers.cells())
    assert "fvu_low" in layers.csv().splitlines()[0]


def test_the_artifact_of_the_agreement_has_both_tables(seeded, data):
    text = markdown_agreement(seeded["agreement"])
    assert "### Do 3 seeds rank the layers alike?" in text
    assert "### Spread over seeds" in text
    del data["agreement"]["seeds"]
    assert "seeds" not in markdown_agreement(data["agreement"])


def test_the_ledger_counts_the_tokens_of_every_seed(seeded):
    block = seeded["sweep"][2]
    alone = _trained({key: value for key, value in block.items() if key != "seeds"})
    assert _trained(block) == alone + 2 * block["arms"]["bridge"]["tokens"]
