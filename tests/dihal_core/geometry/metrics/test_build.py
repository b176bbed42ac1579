"""The metrics stage under the token policies that leave no next token to predict."""

import json

import pytest

from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.runner import ensure
from dihal_core.study import pin_device, request_for


@pytest.mark.parametrize("policy", ["last", "mean"])
def test_rows_without_a_next_token_have_no_logit_lens_and_all_other_metrics(tmp_path, policy):
    overrides = {
        "activations.token_policy": policy,
        "activations.positions_per_sequence": 1,
        "geometry.large_size": 32,
        "geometry.small_size": 16,
        "geometry.num_pairs": 50,
    }
    settings, records = pin_device(load_study("smoke", overrides=overrides)), {"assets": {}}
    for stage in ("corpus", "activations", "metrics"):
        records[stage] = ensure(request_for(stage, settings, tmp_path, records, None), silent)
    rows = json.loads((records["metrics"].path / "metrics.json").read_bytes())["layers"]
    assert [row["logit_lens_ce"] for row in rows] == [None] * 5
    assert all(row["participation_ratio"] >= 1 and row["ridge_r2"] <= 1 for row in rows)
