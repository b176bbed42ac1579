import numpy as np
import pytest
import torch

from dihal_core.bridges.frame import Arm
from dihal_core.training.likelihood import suffix_likelihood, teacher_finals

CHOSEN = np.arange(30, 38)


class Truth(Arm):
    """Predicts the true state: the splice itself."""

    kind = "truth"

    def __init__(self, frame, source):
        super().__init__(frame)
        self.source = [source]

    def predict(self, embeddings_BTD, steps=1, sequence_B=None, seed=0):
        source = self.source[0]
        for start in range(0, len(CHOSEN), 6):
            batch = CHOSEN[start : start + 6]
            if torch.equal(source.embed(batch), embeddings_BTD):
                return source.targets.states(batch).float()
        raise AssertionError("asked for windows that were not chosen")


def test_the_true_state_has_no_divergence_and_the_teachers_likelihood(source):
    losses, teacher, tokens = suffix_likelihood({"truth": Truth(source.frame, source)}, source, 2, CHOSEN, "corpus")
    assert losses["truth"]["kl"] == pytest.approx(0, abs=1e-6)
    assert losses["truth"]["nll"] == pytest.approx(teacher, abs=1e-6)
    assert tokens == int((source.windows.lengths_N[CHOSEN] - 2).sum())


def test_a_worse_state_has_a_larger_divergence(source, make_arms):
    losses, _, _ = suffix_likelihood(make_arms("ridge", "skip"), source, 2, CHOSEN, "corpus")
    assert 0 < losses["ridge"]["kl"] < losses["skip"]["kl"]


def test_the_teacher_runs_once_for_all_layers_and_anew_for_other_windows(source, backbone, windows):
    first = teacher_finals(backbone, windows, CHOSEN, "corpus")
    assert teacher_finals(backbone, windows, CHOSEN, "corpus") is first
    other = teacher_finals(backbone, windows, CHOSEN[:3], "corpus")
    assert len(other) == 1
    assert torch.equal(other[0], backbone.final(torch.from_numpy(windows.tokens_NT[CHOSEN[:3]]).long()))


def test_no_windows_means_no_likelihood(source, make_arms):
    assert suffix_likelihood(make_arms("ridge"), source, 2, CHOSEN[:0], "corpus") == ({}, None, 0)
