import dataclasses

import pytest

from dihal_core.errors import ArtifactError
from dihal_core.reporting.results import keyed, load_results, without_bulk


def test_every_block_is_read_from_its_store(data, context_for, results_for):
    results = load_results(context_for(data))
    without = dict.fromkeys(("records", "manifests"))
    read, expected = (dataclasses.replace(found, **without) for found in (results, results_for(data)))
    assert read == expected
    assert results.score == data["score"]
    assert results.sweeps == data["sweep"]
    assert list(results.evaluations) == ["eval_wiki", "heldout"]
    assert len(results.records) == 8 + 31 - 1 + 28 + 2
    assert results.candidates == list(range(1, 30))


def test_a_layer_without_sweep_is_a_gap_with_its_reason(data, context_for):
    del data["sweep"][12]
    assert load_results(context_for(data)).gaps == {7: "loss became NaN at step 11", 12: "not run"}


def test_a_store_without_its_result_names_the_stage_to_run_again(data, context_for):
    context = context_for(data)
    (context.inputs["score"].path / "score.json").unlink()
    with pytest.raises(ArtifactError, match=r"no readable score\.json.*recomputes stage 'score'"):
        load_results(context)


def test_absent_stages_are_none(data, context_for):
    results = load_results(context_for({"corpus": data["corpus"]}))
    assert results.score is results.agreement is results.replace is None
    assert results.sweeps == {}


def test_bulk_is_left_out_at_every_depth():
    block = {"a": [{"per_document": 1, "b": 2}], "per_document": 3}
    assert without_bulk(block) == {"a": [{"b": 2}]}


def test_blocks_are_keyed_from_a_list_too():
    assert keyed([{"layer": 3}], "layer") == {3: {"layer": 3}} == keyed({3: {"layer": 3}}, "layer")
