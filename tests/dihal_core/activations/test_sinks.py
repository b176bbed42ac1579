"""Massive tokens are counted where they are, first positions included, and padding is no token."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from dihal_core.activations.names import SINKS
from dihal_core.activations.sinks import MASSIVE_RATIO, count_sinks, sinks_of
from dihal_core.errors import ArtifactError
from dihal_core.store import StageStore

_families = importlib.util.spec_from_file_location(
    "families", Path(__file__).parents[1] / "backbones" / "test_registry.py"
)
families = importlib.util.module_from_spec(_families)
_families.loader.exec_module(families)
_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)

LOUD = 7
"""A token whose embedding is made 1,000 times as long."""


@pytest.fixture(scope="module")
def backbone():
    made = families.tiny("llama", "float32")
    with torch.no_grad():
        made.model.get_input_embeddings().weight[LOUD] *= 1000
    return made


def plan_with(first: int, elsewhere: int):
    """Four windows; token `LOUD` opens `first` of them and stands inside `elsewhere` of them."""
    plan = script.tiny_plan(4, short=False)
    tokens_NT = np.where(plan.tokens_NT == LOUD, LOUD + 1, plan.tokens_NT)
    tokens_NT[:first, 0] = LOUD
    tokens_NT[:elsewhere, 5] = LOUD
    return dataclasses.replace(plan, tokens_NT=tokens_NT, table_layers=(0, 1), hidden_size=families.WIDTH)


@pytest.mark.parametrize(("first", "elsewhere"), [(0, 0), (3, 0), (0, 2), (4, 1)])
def test_loud_tokens_are_counted_at_position_0_and_beyond_it(backbone, first, elsewhere):
    found = count_sinks(backbone, plan_with(first, elsewhere))
    layer = found["layers"]["0"]
    assert layer["massive_at_position_0"] == first
    assert layer["massive_tokens"] == first + elsewhere
    assert (layer["position_0_norm_ratio"] > MASSIVE_RATIO) == (first > 2)  # the median of four windows
    assert found["windows"] == 4
    assert set(found["layers"]) == {"0", "1"}


def test_padding_is_no_token(backbone):
    plan = plan_with(1, 0)
    tokens_NT, lengths_N = plan.tokens_NT.copy(), plan.lengths_N.copy()
    lengths_N[1] = 6
    tokens_NT[1, 6:] = LOUD
    found = count_sinks(backbone, dataclasses.replace(plan, tokens_NT=tokens_NT, lengths_N=lengths_N))
    assert found["layers"]["0"]["massive_tokens"] == 1
    assert found["tokens"] == int(lengths_N.sum())


def test_counts_are_read_back_by_layer_and_missing_ones_name_the_stage(backbone, tmp_path):
    store = StageStore(tmp_path, "activations", "k")
    plan = plan_with(4, 1)
    store.write_json(SINKS, count_sinks(backbone, plan))
    record = store.finalize({}, {}, None)
    read = sinks_of(record, 0)
    assert read["massive_at_position_0"] == read["sink_windows"] == 4
    assert read["skipped_positions"] == plan.skip_positions
    (record.path / SINKS).unlink()
    with pytest.raises(ArtifactError, match="recomputes stage 'activations'"):
        sinks_of(record, 0)
