import numpy as np
import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError
from dihal_core.training.targets import RecomputeTargets, StoreTargets


def test_stored_and_recomputed_targets_agree_up_to_the_stored_precision(study, smoke):
    _, records = study
    windows = load_windows(records["corpus"], "train")
    backbone = load_backbone(smoke.backbone, {}, "cpu", smoke.seed)
    chosen = np.array([7, 0, 31])
    for layer in (1, 3):
        stored = StoreTargets(records["activations"], layer, 32, "cpu").states(chosen).float()
        fresh = RecomputeTargets(backbone, windows, layer).states(chosen).float()
        assert stored.shape == fresh.shape
        inside = torch.arange(stored.shape[1]) < torch.from_numpy(windows.lengths_N[chosen])[:, None]
        assert torch.allclose(stored[inside], fresh[inside], rtol=2**-7, atol=1e-4)


def test_too_few_stored_windows_are_refused_before_training(study):
    _, records = study
    with pytest.raises(ArtifactError, match="holds 32 whole windows of layer 1, 33 are needed"):
        StoreTargets(records["activations"], 1, 33, "cpu")


def test_a_layer_that_was_not_stored_is_named(study):
    _, records = study
    with pytest.raises(ArtifactError, match="state"):
        StoreTargets(records["activations"], 4, 1, "cpu")


def test_a_layer_too_large_for_memory_is_mapped_and_gives_the_same_states(study):
    _, records = study
    chosen = np.array([31, 4, 4, 0])
    loaded = StoreTargets(records["activations"], 2, 32, "cpu").states(chosen)
    mapped = StoreTargets(records["activations"], 2, 32, "cpu", in_memory_bytes=0).states(chosen)
    assert torch.equal(loaded, mapped)
