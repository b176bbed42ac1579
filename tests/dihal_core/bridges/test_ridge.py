import json

import numpy as np
import pytest
import torch

from dihal_core.bridges.ridge import load_ridge
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError
from dihal_core.profiles import load_study
from dihal_core.runner import ensure
from dihal_core.study import request_for


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    smoke, home = load_study("smoke"), tmp_path_factory.mktemp("home")
    records = {"assets": {}}
    for stage in ("corpus", "ridge"):
        records[stage] = ensure(request_for(stage, smoke, home, records))
    return smoke, records


def test_the_split_covers_the_sweep_and_shares_no_document(built):
    smoke, records = built
    ridge, windows = load_ridge(records["ridge"], "cpu"), load_windows(records["corpus"], "train")
    assert sorted([*ridge.train, *ridge.validation]) == list(range(smoke.sweep.num_sequences))
    assert not set(windows.document_N[ridge.train]) & set(windows.document_N[ridge.validation])
    assert set(ridge.fitted) <= set(ridge.train)


def test_the_factor_is_of_the_centred_gram_matrix_of_fitted_rows(built):
    from dihal_core.backbones.loading import load_backbone
    from dihal_core.bridges.linear import lagged
    from dihal_core.bridges.standardise import state_mask

    smoke, records = built
    ridge, windows = load_ridge(records["ridge"], "cpu"), load_windows(records["corpus"], "train")
    backbone = load_backbone(smoke.backbone, {}, "cpu", smoke.seed)
    tokens = torch.from_numpy(windows.tokens_NT[ridge.fitted])
    condition = ridge.condition(backbone.embed(tokens))
    mask = state_mask(torch.from_numpy(windows.lengths_N[ridge.fitted]).long(), tokens.shape[1])
    x = lagged(condition, smoke.bridge.ridge_tokens)[mask].double()
    gram = (x - x.mean(0)).T @ (x - x.mean(0))
    factor = ridge.factor.cholesky_FF.double()
    penalty = smoke.bridge.ridge_penalty * float(gram.diagonal().mean())
    assert ridge.factor.penalty == pytest.approx(penalty, rel=1e-4)
    assert ridge.factor.rows == len(x)
    assert torch.allclose(factor @ factor.T, gram + penalty * torch.eye(len(gram)), atol=1e-4 * float(gram.max()))
    assert torch.allclose(condition[mask].mean(0), torch.zeros(32), atol=1e-5)


def test_the_store_holds_no_validation_window_in_its_fit(built):
    _, records = built
    facts = json.loads((records["ridge"].path / "split.json").read_bytes())
    assert not set(facts["fitted"]) & set(facts["validation"])
    assert np.all(np.diff(facts["train"]) > 0)


def test_a_damaged_store_is_named(built, tmp_path):
    import dataclasses
    import shutil

    _, records = built
    shutil.copytree(records["ridge"].path, tmp_path / "copy")
    (tmp_path / "copy" / "condition.safetensors").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="recomputes stage 'ridge'"):
        load_ridge(dataclasses.replace(records["ridge"], uri=str(tmp_path / "copy")), "cpu")
