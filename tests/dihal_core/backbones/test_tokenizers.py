"""Byte tokenizer: exact, closed, and honest about its separator."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dihal_core.backbones.tokenizers import load_tokenizer, pad_id, separator_id
from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError, ConfigError


def backbone(**more) -> BackboneSettings:
    facts = {
        "name": "random", "source": "random", "identifier": "r", "model_type": "llama", "num_layers": 2,
        "hidden_size": 8, "vocab_size": 258, "num_parameters": 1, "tokenizer": "bytes",
        "separator_token": "<|separator|>",
    }  # fmt: skip
    return BackboneSettings(**{**facts, **more})


BYTES = load_tokenizer(backbone(), {})


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_ids_are_the_utf8_bytes_and_decoding_returns_the_text(text):
    ids = BYTES(text, add_special_tokens=False)["input_ids"]
    assert bytes(ids) == text.encode()
    assert BYTES.decode(ids) == text


def test_the_separator_and_the_pad_follow_the_bytes():
    assert (separator_id(BYTES, backbone()), pad_id(BYTES, backbone()), len(BYTES)) == (256, 257, 258)
    assert BYTES("a<|separator|>b", add_special_tokens=False)["input_ids"] == [97, 256, 98]


def test_a_separator_that_is_no_token_is_refused_with_the_nearest_one():
    with pytest.raises(
        ConfigError, match=r"'<\|separater\|>' is not in the vocabulary.*did you mean '<\|separator\|>'"
    ):
        separator_id(BYTES, backbone(separator_token="<|separater|>"))


def test_an_embedding_too_small_for_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size 200 is too small"):
        load_tokenizer(backbone(vocab_size=200), {})


def test_random_weights_have_no_tokenizer_of_their_own():
    with pytest.raises(ConfigError, match=r"set backbone\.tokenizer=bytes"):
        load_tokenizer(backbone(tokenizer="backbone"), {})


def test_a_corrupt_gguf_is_one_sentence(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(AssetError, match=r"tokenizer of .*broken\.gguf could not be read") as caught:
        load_tokenizer(backbone(source="gguf", identifier=str(broken), tokenizer="backbone"), {})
    assert "\n" not in str(caught.value)


def test_a_folder_written_with_save_pretrained_gives_the_same_ids(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    BYTES.save_pretrained(tmp_path)
    again = load_tokenizer(backbone(source="folder", identifier=str(tmp_path), tokenizer="backbone"), {})
    text = "Round trip: Ünïcode <|separator|> 42"
    assert again(text, add_special_tokens=False)["input_ids"] == BYTES(text, add_special_tokens=False)["input_ids"]
