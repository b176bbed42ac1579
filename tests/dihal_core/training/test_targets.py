import numpy as np
import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.frame import Frame
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError
from dihal_core.training.batches import BatchSource
from dihal_core.training.loop import train
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


def test_batches_read_ahead_are_those_that_are_asked_for_also_with_others_in_between(study):
    _, records = study
    loaded = StoreTargets(records["activations"], 2, 32, "cpu")
    mapped = StoreTargets(records["activations"], 2, 32, "cpu", in_memory_bytes=0)
    order = [np.array([3, 1]), np.array([0, 31]), np.array([5, 5])]
    with mapped.reading_ahead(order):
        for windows in (order[0], np.array([9, 2]), order[1], order[0], order[2], np.array([1, 1])):
            assert torch.equal(mapped.states(windows), loaded.states(windows))
    assert torch.equal(mapped.states(order[1]), loaded.states(order[1]))


def test_training_on_a_mapped_layer_gives_the_bits_of_one_in_memory(study, smoke, training):
    _, records = study
    windows = load_windows(records["corpus"], "train")
    backbone = load_backbone(smoke.backbone, {}, "cpu", smoke.seed)
    trained = []
    for limit in (2**30, 0):
        targets = StoreTargets(records["activations"], 2, 32, "cpu", in_memory_bytes=limit)
        source = BatchSource(backbone, windows, targets, Frame(backbone.hidden_size, 3), clip_sd=10.0)
        arm = make_arm("bridge", smoke.bridge, source.frame, seed=0)
        train({"bridge": arm}, source, np.arange(32), training, 0, "layer 2")
        trained.append(arm)
    for one, other in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.equal(one, other)
