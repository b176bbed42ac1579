import pytest

from dihal_core.backbones.tokenizers import byte_tokenizer, pad_id, separator_id
from dihal_core.corpus.documents import Document
from dihal_core.corpus.tokenise import WindowEncoder, text_counts
from dihal_core.profiles import load_study

BACKBONE = load_study("smoke").backbone
TOKENIZER = byte_tokenizer(BACKBONE)
SEPARATOR, PAD = separator_id(TOKENIZER, BACKBONE), pad_id(TOKENIZER, BACKBONE)


def encoder(window=16, minimum=5, seed=0):
    return WindowEncoder(TOKENIZER, SEPARATOR, PAD, window, minimum, seed)


def windows(text, cap=1000, **settings):
    return encoder(**settings).encode([Document("a", text, "wiki")], cap)[0]


def test_the_windows_of_a_document_put_together_are_the_document():
    text = "The quick brown fox jumps over the lazy dög – twice 🎉, by the way."
    found = windows(text)
    order = found.index_N.argsort()
    body = [int(t) for row in order for t in found.tokens_NT[row, 1 : found.lengths_N[row]]]
    assert bytes(body) == text.encode()
    assert (found.tokens_NT[:, 0] == SEPARATOR).all()
    for tokens, length in zip(found.tokens_NT, found.lengths_N, strict=True):
        assert (tokens[length:] == PAD).all()


@pytest.mark.parametrize(
    ("length", "kept"), [(15, [16]), (18, [16]), (19, [16, 5]), (30, [16, 16]), (4, [5]), (3, None)]
)
def test_remainders_below_the_minimum_are_dropped(length, kept):
    found = windows("x" * length)
    if kept is None:
        assert found == "too_short"
    else:
        assert sorted(found.lengths_N.tolist(), reverse=True) == kept


def test_counted_bytes_and_words_are_those_of_the_scored_text():
    text = "alpha beta  gamma\ndelta epsilon zeta eta theta iota kappa lambda mu nu"
    found = windows(text)
    for row in range(len(found)):
        tokens = found.tokens_NT[row, 2 : found.lengths_N[row]].tolist()
        assert found.bytes_N[row] == len(tokens)
        start = found.index_N[row] * 15 + 1
        scored = text[start : start + len(tokens)]
        begins = sum(not c.isspace() and text[start + i - 1].isspace() for i, c in enumerate(scored))
        assert found.words_N[row] == begins


def test_prefix_counts_match_the_slow_way():
    text = "a é 🎉\u00a0b\u2028c  d\n\n"
    bytes_C, words_C = text_counts(text)
    for end in range(len(text) + 1):
        assert bytes_C[end] == len(text[:end].encode())
        assert words_C[end] == len(text[:end].split())
    assert text_counts("")[0].tolist() == [0]


def test_text_that_looks_like_a_control_token_stays_text():
    text = f"before {BACKBONE.separator_token} and <|pad|> after, long enough"
    found = windows(text, window=128)
    tokens = found.tokens_NT[0, 1 : found.lengths_N[0]].tolist()
    assert bytes(tokens) == text.encode()
    assert SEPARATOR not in tokens


def test_the_cap_takes_windows_from_all_over_the_document_by_seed():
    text = "".join(chr(97 + i % 26) for i in range(15 * 200))
    chosen = windows(text, cap=8)
    assert len(chosen) == 8
    assert chosen.index_N.max() > 50
    assert windows(text, cap=8, seed=1).index_N.tolist() != chosen.index_N.tolist()
    assert windows(text, cap=4).index_N.tolist() == chosen.index_N.tolist()[:4]


def test_a_document_gives_the_same_windows_in_any_batch():
    documents = [Document(str(i), f"document {i} " * (i + 3), "wiki") for i in range(6)]
    together = encoder().encode(documents, 4)
    for document, found in zip(documents, together, strict=True):
        alone = encoder().encode([document], 4)[0]
        assert (alone.tokens_NT == found.tokens_NT).all()
        assert (alone.bytes_N == found.bytes_N).all()


def test_a_giant_document_is_cut_and_counted(monkeypatch):
    monkeypatch.setattr("dihal_core.corpus.tokenise.MAX_DOCUMENT_CHARACTERS", 100)
    cutter = encoder()
    found = cutter.encode([Document("a", "y" * 1000, "books")], 1000)[0]
    assert int(found.lengths_N.sum()) - len(found) == 100
    assert cutter.cut_documents == 1
