"""Metrics of replaced states: exact zeros for true states, closed forms, a slow reference."""

import numpy as np
import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.config import BackboneSettings
from dihal_core.errors import NumericsError
from dihal_core.evaluation import likelihood
from dihal_core.evaluation.likelihood import score_finals, scored_mask, suffix_metrics

VOCABULARY = 50


def backbone(dtype: str = "float32"):
    return load_backbone(
        BackboneSettings(
            name="tiny", source="random", identifier="likelihood", model_type="llama", num_layers=3, hidden_size=16,
            vocab_size=VOCABULARY, num_parameters=1, dtype=dtype,
            config_overrides={
                "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24, "initializer_range": 0.5,
            },
        ),
        {},
        seed=1,
    )  # fmt: skip


TOKENS_BT = torch.randint(0, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(0))
LENGTHS_B = torch.tensor([10, 4, 3])


def test_scored_are_the_predictions_after_the_prefix_state_and_before_the_last_token():
    mask_BT = scored_mask(LENGTHS_B, 10)
    assert [row.nonzero()[:, 0].tolist() for row in mask_BT] == [list(range(1, 9)), [1, 2], [1]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_true_state_has_a_divergence_of_exactly_zero(layer, dtype):
    model = backbone(dtype)
    metrics = suffix_metrics(model, layer, model.prefix(TOKENS_BT, layer), TOKENS_BT, LENGTHS_B, model.final(TOKENS_BT))
    assert not metrics.kl_BT.any()
    assert np.array_equal(metrics.nll_BT, metrics.teacher_nll_BT)
    assert np.array_equal(metrics.top1_BT, metrics.mask_BT.astype(float))
    assert metrics.tokens == 11
    assert metrics.mean("nll") > 1.0


def test_values_agree_with_a_slow_float64_reference_written_from_the_definitions():
    model = backbone()
    hidden_BTD = model.prefix(TOKENS_BT, 2) + 2.0 * torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(4))
    metrics = suffix_metrics(model, 2, hidden_BTD, TOKENS_BT, LENGTHS_B, model.final(TOKENS_BT))
    with torch.no_grad():
        p = model.model(TOKENS_BT).logits.double().softmax(-1)
        q = model.logits(model.suffix(2)(hidden_BTD)).double().softmax(-1)
    for b in range(3):
        for t in range(10):
            if not 1 <= t <= LENGTHS_B[b] - 2:
                assert metrics.nll_BT[b, t] == metrics.kl_BT[b, t] == metrics.top1_BT[b, t] == 0.0
                continue
            target = TOKENS_BT[b, t + 1]
            assert metrics.nll_BT[b, t] == pytest.approx(float(-q[b, t, target].log()), abs=1e-5)
            assert metrics.teacher_nll_BT[b, t] == pytest.approx(float(-p[b, t, target].log()), abs=1e-5)
            assert metrics.kl_BT[b, t] == pytest.approx(float((p[b, t] * (p[b, t] / q[b, t]).log()).sum()), abs=1e-5)
            assert metrics.top1_BT[b, t] == float(p[b, t].argmax() == q[b, t].argmax())
    assert metrics.kl_BT.sum() > 0.01


def test_chunks_change_no_number_beyond_rounding_and_padding_changes_none(monkeypatch):
    model = backbone()
    hidden_BTD = model.prefix(TOKENS_BT, 1) * 1.1
    whole = suffix_metrics(model, 1, hidden_BTD, TOKENS_BT, LENGTHS_B, model.final(TOKENS_BT))
    padded_BT = TOKENS_BT.clone()
    padded_BT[1, 4:], padded_BT[2, 3:] = 7, 7
    again = suffix_metrics(model, 1, model.prefix(padded_BT, 1) * 1.1, padded_BT, LENGTHS_B, model.final(padded_BT))
    for name in ("nll_BT", "kl_BT", "top1_BT", "teacher_nll_BT"):
        assert np.array_equal(getattr(whole, name), getattr(again, name))
    many_BT = TOKENS_BT.repeat(12, 1)
    many_hidden_BTD, many_B = hidden_BTD.repeat(12, 1, 1), LENGTHS_B.repeat(12)
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 1)
    small = suffix_metrics(model, 1, many_hidden_BTD, many_BT, many_B, model.final(many_BT))
    assert np.allclose(small.kl_BT.reshape(12, 3, 10), whole.kl_BT, atol=1e-5)


def test_several_arms_at_once_equal_each_arm_alone():
    model = backbone()
    teacher_BTD = model.final(TOKENS_BT)
    finals = {f"x{scale}": teacher_BTD * scale for scale in (0.5, 1.0, 1.5)}
    together = score_finals(model, finals, TOKENS_BT, LENGTHS_B, teacher_BTD)
    for arm, final_BTD in finals.items():
        alone = score_finals(model, {arm: final_BTD}, TOKENS_BT, LENGTHS_B, teacher_BTD)[arm]
        assert np.array_equal(together[arm].kl_BT, alone.kl_BT)
        assert np.array_equal(together[arm].nll_BT, alone.nll_BT)
    assert together["x0.5"].mean("kl") > 0.0 == together["x1.0"].mean("kl")


def test_a_state_that_is_not_finite_is_named_with_its_window():
    model = backbone()
    hidden_BTD = model.prefix(TOKENS_BT, 1)
    hidden_BTD[1, 1] = float("nan")
    with pytest.raises(NumericsError, match="window 1 of the batch"):
        suffix_metrics(model, 1, hidden_BTD, TOKENS_BT, LENGTHS_B, model.final(TOKENS_BT))


def test_windows_too_short_to_score_give_no_tokens():
    model = backbone()
    short = suffix_metrics(
        model, 1, model.prefix(TOKENS_BT, 1), TOKENS_BT, torch.tensor([2, 1, 2]), model.final(TOKENS_BT)
    )
    assert (short.tokens, short.mean("nll")) == (0, 0.0)
