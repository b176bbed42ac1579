import pytest

from dihal_core.backbones.tokenizers import byte_tokenizer, pad_id, separator_id
from dihal_core.corpus import prepared as module
from dihal_core.corpus.documents import Document
from dihal_core.corpus.prepared import Prepared, in_batches
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.profiles import load_study

BACKBONE = load_study("smoke").backbone
DOCUMENTS = [Document(f"d{n}", f"document {n} " * (1 + 3 * n), "wiki") for n in range(8)]


@pytest.fixture
def encoder():
    tokenizer = byte_tokenizer(BACKBONE)
    return WindowEncoder(tokenizer, separator_id(tokenizer, BACKBONE), pad_id(tokenizer, BACKBONE), 32, 16, 0)


def same(left, right):
    if isinstance(left, str):
        return left == right
    arrays = ("tokens_NT", "lengths_N", "bytes_N", "words_N", "index_N")
    return left.identity == right.identity and all((getattr(left, a) == getattr(right, a)).all() for a in arrays)


@pytest.mark.parametrize("cap", [1, 2, 5, 100])
def test_what_was_prepared_equals_what_would_be_encoded(encoder, tmp_path, cap):
    Prepared.write(tmp_path, "unit-a", encoder, [(DOCUMENTS[:5], 5), (DOCUMENTS[5:7], 2)])
    Prepared.write(tmp_path, "unit-b", encoder, [])
    plain = encoder.encode(DOCUMENTS, cap)
    encoder.prepared = Prepared.load(tmp_path, ["unit-a", "unit-b", "unit-that-is-not-there"])
    assert len(encoder.prepared) == 7
    assert all(same(a, b) for a, b in zip(plain, encoder.encode(DOCUMENTS, cap), strict=True))


def test_only_what_may_lack_windows_or_was_never_prepared_is_made_again(encoder, tmp_path):
    Prepared.write(tmp_path, "unit", encoder, [(DOCUMENTS[:7], 3)])
    found = Prepared.load(tmp_path, ["unit"])
    assert found.find(DOCUMENTS[0], 3) == "too_short"
    assert [found.find(d, 3) is None for d in DOCUMENTS] == [False] * 7 + [True]
    missing = [found.find(d, 9) is None for d in DOCUMENTS]
    windows = [0 if isinstance(w, str) else len(w) for w in encoder.encode_anew(DOCUMENTS, 3)]
    assert missing == [n == 3 or d is DOCUMENTS[7] for n, d in zip(windows, DOCUMENTS, strict=True)]
    other = Document("d3", DOCUMENTS[3].text + ".", "wiki")
    assert found.find(other, 3) is None


def test_batches_hold_every_document_once_within_their_bounds(monkeypatch):
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 3)
    batches = list(in_batches(DOCUMENTS))
    assert [d for batch in batches for d in batch] == DOCUMENTS
    assert all(len(batch) <= 3 and sum(len(d.text) for d in batch[:-1]) < 100 for batch in batches)
    assert list(in_batches([])) == []
