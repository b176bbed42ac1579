import numpy as np
import pytest

from dihal_core.corpus.duplicates import (
    PERMUTATIONS,
    DuplicateIndex,
    SharedGrams,
    WordHashes,
    minhash,
    ngram_hashes,
)
from dihal_core.seeding import stream

VOCABULARY = [f"word{i}" for i in range(3000)]


def words(count, *name):
    return list(stream(0, "test", *name).choice(VOCABULARY, count))


def text(*parts):
    return " ".join(word for part in parts for word in part)


@pytest.fixture
def hashes():
    return WordHashes()


def test_ngrams_equal_those_of_the_slow_way(hashes):
    sentence = words(60, "ngrams") * 2
    slow = {tuple(sentence[i : i + 5]) for i in range(len(sentence) - 4)}
    assert len(ngram_hashes(hashes.words(text(sentence)), 5)) == len(slow)
    assert len(ngram_hashes(hashes.words("too short"), 5)) == 0


def test_word_hashes_are_pinned_so_that_every_process_agrees():
    assert WordHashes()["dihal"] == 9280171086036171059


@pytest.mark.parametrize("shared", [0, 100, 200, 300, 400])
def test_minhash_estimates_the_jaccard_similarity(hashes, shared):
    common = words(shared, "common")
    left, right = text(common, words(400 - shared, "left")), text(common, words(400 - shared, "right"))
    a, b = (ngram_hashes(hashes.words(side), 5) for side in (left, right))
    exact = len(np.intersect1d(a, b)) / len(np.union1d(a, b))
    estimate = (minhash(a) == minhash(b)).mean()
    assert abs(estimate - exact) < 4 * np.sqrt(0.25 / PERMUTATIONS)


def test_exact_and_near_duplicates_are_told_apart_and_other_text_passes(hashes):
    index = DuplicateIndex(hashes)
    body = words(300, "body")
    assert index.add(text(body)) is None
    assert index.add(text(body).upper() + " ") == "duplicate"
    assert index.add(text(body[:150], ["changed"], body[151:])) == "near_duplicate"
    assert index.add(text(words(300, "other"))) is None


def test_a_text_mostly_contained_in_another_is_a_near_duplicate(hashes):
    index = DuplicateIndex(hashes)
    body = words(400, "body")
    assert index.add(text(body)) is None
    assert index.add(text(body[:230])) == "near_duplicate"


def test_short_texts_without_shingles_are_compared_exactly(hashes):
    index = DuplicateIndex(hashes)
    assert [index.add("a b"), index.add("a c"), index.add("A  b")] == [None, None, "duplicate"]


def test_shared_grams_equal_a_set_intersection(hashes):
    common = words(40, "common")
    watched = [text(common, words(60, "w1")), text(words(100, "w2")), "fewer than thirteen words"]
    training = [text(words(50, "t1"), common), text(words(80, "t2"))]
    grams = SharedGrams(hashes, watched)
    for document in training:
        grams.see(document)

    def slow(document):
        w = document.split()
        return {tuple(w[i : i + 13]) for i in range(len(w) - 12)}

    seen = set().union(*(slow(document) for document in training))
    for number, document in enumerate(watched):
        assert grams.counts(number) == (len(slow(document) & seen), len(slow(document)))
    assert grams.counts(0)[0] == 28
