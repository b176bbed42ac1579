"""The per-token table: means by token, the global mean where a token is new, and nothing of the context."""

import numpy as np
import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.bridges.arms import load_arms, make_arm, save_arms
from dihal_core.bridges.frame import Frame
from dihal_core.bridges.table import TableArm, fingerprint, fit_table
from dihal_core.config import BackboneSettings, MlpBridgeSettings

D, T, VOCABULARY = 24, 9, 60
SETTINGS = MlpBridgeSettings(width=16, context_width=16, context_heads=2)


@pytest.fixture
def data():
    """Embeddings of 60 tokens, 70 windows of 40 of them, and random states."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    embedding = torch.randn(VOCABULARY, D, generator=generator)
    tokens = rng.integers(1, 40, (70, T)).astype(np.int32)
    tokens[:, 0] = 0
    lengths = rng.integers(3, T + 1, 70)
    return embedding, tokens, torch.from_numpy(lengths), torch.randn(70, T, D, generator=generator)


ALL = np.arange(70)


def fit(data, windows=ALL, dtype=torch.float32):
    embedding, tokens, lengths, states = data
    frame = Frame(D, 1)
    frame.sink_D.fill_(3.0)
    arm = fit_table(
        frame,
        lambda ids: embedding.to(dtype)[ids],
        lambda chunk: states[chunk].to(dtype),
        tokens,
        lengths,
        windows,
        "layer 2",
    )
    assert arm is not None
    return arm


def test_each_token_gets_the_mean_of_its_counted_states_and_a_new_one_the_mean_of_all(data):
    embedding, tokens, lengths, states = data
    windows = np.arange(50)
    arm = fit(data, windows)
    counted = np.arange(T)[None] >= 1
    counted = counted & (np.arange(T)[None] < lengths[:50, None].numpy())
    rows, ids = states[:50].numpy()[counted], tokens[:50][counted]
    asked = np.array([[0, *sorted(set(ids))[:5], 55, 59]])
    hidden = arm.predict(embedding[torch.from_numpy(asked)])[0].numpy()
    for place, token in enumerate(asked[0]):
        expected = rows[ids == token].mean(0) if token in ids else rows.mean(0)
        if place:
            assert np.allclose(hidden[place], expected, atol=1e-6), token
    assert np.all(hidden[0] == 3.0)
    assert len(arm.key_S) == len(set(ids))


def test_the_context_plays_no_part_and_the_dtype_of_the_embedding_neither(data):
    embedding, tokens, _, _ = data
    arm = fit(data)
    embeddings = embedding[torch.from_numpy(tokens[:4]).long()]
    whole = arm.predict(embeddings)
    assert torch.equal(arm.predict(embeddings.flip(1))[:, 1:-1], whole.flip(1)[:, 1:-1])
    assert torch.equal(arm.predict(embeddings.bfloat16()), whole)
    assert torch.equal(arm.predict(embeddings, 4, torch.arange(4), 7), whole)


def test_the_order_of_windows_and_chunks_changes_no_mean_beyond_rounding(data):
    one, other = fit(data), fit(data, np.random.default_rng(1).permutation(70))
    assert torch.equal(one.key_S, other.key_S)
    assert torch.allclose(one.state_SD, other.state_SD, atol=1e-6)
    assert torch.equal(fit(data).state_SD, one.state_SD)


def test_tokens_with_one_embedding_are_one_entry(data):
    embedding, tokens, lengths, states = data
    embedding[7] = embedding[9]
    arm = fit((embedding, tokens, lengths, states))
    counted = (np.arange(T)[None] >= 1) & (np.arange(T)[None] < lengths[:, None].numpy())
    rows = states.numpy()[counted & np.isin(tokens, (7, 9))]
    assert np.allclose(arm.predict(embedding[torch.tensor([[0, 9]])])[0, 1].numpy(), rows.mean(0), atol=1e-6)


def test_a_saved_table_predicts_the_same_bits_and_an_empty_one_the_mean(data, tmp_path):
    embedding, tokens, _, _ = data
    arm = fit(data)
    ridge = make_arm("ridge", SETTINGS.model_copy(update={"ridge_tokens": 1}), arm.frame, 0)
    save_arms(tmp_path, {"table": arm, "ridge": ridge}, SETTINGS.model_copy(update={"ridge_tokens": 1}), layer=2)
    loaded = load_arms(tmp_path)["table"]
    embeddings = embedding[torch.from_numpy(tokens[:4]).long()]
    assert torch.equal(loaded.predict(embeddings), arm.predict(embeddings))
    empty = TableArm(arm.frame)
    assert torch.equal(empty.predict(embeddings)[:, 1:], torch.zeros(4, T - 1, D))


def test_fingerprints_tell_every_token_of_a_large_vocabulary_apart():
    embedding = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    distinct = len(torch.unique(embedding.view(torch.int16), dim=0))
    assert len(torch.unique(fingerprint(embedding[None]))) == distinct


@pytest.mark.parametrize(("family", "known"), [("llama", True), ("gemma3_text", True), ("gpt2", False)])
def test_a_backbone_whose_first_state_holds_the_position_has_no_table(family, known, data):
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 12}
    overrides = heads if known else {"n_head": 2}
    settings = BackboneSettings(
        name="tiny", source="random", identifier=f"table-{family}", model_type=family, num_layers=2, hidden_size=D,
        vocab_size=VOCABULARY, num_parameters=1, dtype="float32", config_overrides=overrides,
    )  # fmt: skip
    backbone = load_backbone(settings, {}, "cpu", seed=0)
    _, tokens, lengths, _ = data
    arm = fit_table(
        Frame(D, 1), backbone.embed, lambda chunk: backbone.prefix(torch.from_numpy(tokens[chunk]), 1), tokens, lengths,
        np.arange(70), "layer 1",
    )  # fmt: skip
    assert (arm is not None) == known
    if arm is not None:
        seen = fingerprint(backbone.embed(torch.from_numpy(tokens[:3]).long()))
        assert torch.isin(seen[:, 1], arm.key_S).all()
