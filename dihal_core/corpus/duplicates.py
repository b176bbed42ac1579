"""Exact and near duplicates, and shared 13-grams between training and held-out text.

Letters: W words, G n-grams of one document, P = 128 permutations, B = 32 bands of 4.
Hashes are our own (BLAKE2 per word, polynomial over words), so they agree on every machine and run.
"""

import hashlib
import re
from collections.abc import Iterator

import numpy as np

from dihal_core.corpus.documents import normalised

WORD = re.compile(r"\w+")
SHINGLE_WORDS = 5
OVERLAP_WORDS = 13
PERMUTATIONS = 128
BANDS = 32
MIN_JACCARD = 0.5
MIN_CONTAINMENT = 0.8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_CHUNK_GRAMS = 4096


class WordHashes(dict[str, int]):
    """64-bit hash of a word, computed once per word."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[word] = value
        return value

    def words(self, text: str) -> np.ndarray:
        """Return the hashes of the words of `text` (`\\w+`, case-folded), uint64 of shape (W,)."""
        found = WORD.findall(text.casefold())
        return np.fromiter(map(self.__getitem__, found), dtype=np.uint64, count=len(found))


def ngram_hashes(words_W: np.ndarray, n: int) -> np.ndarray:
    """Return the distinct hashes of all runs of `n` words, sorted, uint64; empty if there are fewer words."""
    count = len(words_W) - n + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(n):  # Horner modulo 2^64; wrapping is intended
        total = total * _MULTIPLIER + words_W[offset : offset + count]
    return np.unique(_mix(total))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _coefficients() -> tuple[np.ndarray, np.ndarray]:
    raw = hashlib.shake_256(b"dihal minhash").digest(16 * PERMUTATIONS)
    values = np.frombuffer(raw, dtype="<u8").astype(np.uint64)
    return values[:PERMUTATIONS] | np.uint64(1), values[PERMUTATIONS:]


_A, _B = _coefficients()


def minhash(grams_G: np.ndarray) -> np.ndarray:
    """Return the MinHash signature of a set of hashes, uint32 of shape (P,)."""
    signature = np.full(PERMUTATIONS, 0xFFFFFFFF, dtype=np.uint64)
    for start in range(0, len(grams_G), _CHUNK_GRAMS):
        block = grams_G[start : start + _CHUNK_GRAMS, None]
        signature = np.minimum(signature, ((block * _A + _B) >> np.uint64(32)).min(axis=0))
    return signature.astype(np.uint32)


class DuplicateIndex:
    """Documents kept so far; says whether a new one repeats any of them.

    Near duplicates: word 5-shingles, 128 permutations, 32 bands of 4 rows; a candidate counts if the
    estimated Jaccard similarity is at least 0.5 or the estimated containment at least 0.8 (ours).
    The standard error of the estimate is 0.044 at 0.5. The memory per document is one signature.
    """

    def __init__(self, hashes: WordHashes):
        self.hashes = hashes
        self._exact: dict[bytes, int] = {}
        self._bands: dict[bytes, list[int]] = {}
        self._signatures: list[np.ndarray | None] = []
        self._sizes: list[int] = []
        self.repeated: int | None = None
        """Number of the kept document that the last one turned away repeats."""

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, text: str) -> str | None:
        """Keep `text` under the next number and return None, or return `duplicate` or `near_duplicate` and forget it."""
        key = hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).digest()[:16]
        self.repeated = self._exact.get(key)
        if self.repeated is not None:
            return "duplicate"
        shingles_G = ngram_hashes(self.hashes.words(text), SHINGLE_WORDS)
        signature_P = minhash(shingles_G)
        if len(shingles_G):
            self.repeated = next(self._near(signature_P, len(shingles_G)), None)
            if self.repeated is not None:
                return "near_duplicate"
        number = len(self._sizes)
        self._exact[key] = number
        self._signatures.append(signature_P if len(shingles_G) else None)
        self._sizes.append(len(shingles_G))
        if len(shingles_G):
            for band in self._band_keys(signature_P):
                self._bands.setdefault(band, []).append(number)
        return None

    def similarities(self, number: int) -> dict[int, float]:
        """Return the estimated Jaccard similarity of document `number` to kept ones that share a band with it.

        Below the bound of a near duplicate too: a pair at 0.3 shares a band in one case of four.
        """
        signature_P = self._signatures[number]
        if signature_P is None:
            return {}
        return {
            n: float((signature_P == self._signatures[n]).mean()) for n in self._sharing(signature_P) if n != number
        }

    def _band_keys(self, signature_P: np.ndarray) -> list[bytes]:
        rows = signature_P.reshape(BANDS, -1)
        return [bytes([number]) + row.tobytes() for number, row in enumerate(rows)]

    def _sharing(self, signature_P: np.ndarray) -> list[int]:
        return sorted({n for band in self._band_keys(signature_P) for n in self._bands.get(band, ())})

    def _near(self, signature_P: np.ndarray, size: int) -> Iterator[int]:
        for number in self._sharing(signature_P):
            jaccard = float((signature_P == self._signatures[number]).mean())
            other = self._sizes[number]
            containment = jaccard / (1 + jaccard) * (size + other) / min(size, other)
            if jaccard >= MIN_JACCARD or containment >= MIN_CONTAINMENT:
                yield number


class SharedGrams:
    """Share of the 13-grams of watched (held-out) documents that occur in training text.

    The watched side is small and held in memory; training text streams through.
    """

    def __init__(self, hashes: WordHashes, watched: list[str]):
        self.hashes = hashes
        self._grams = [ngram_hashes(hashes.words(text), OVERLAP_WORDS) for text in watched]
        self._all_G = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *self._grams]))
        self._seen_G = np.zeros(len(self._all_G), dtype=bool)

    def see(self, text: str) -> None:
        """Take one training document into account."""
        grams = ngram_hashes(self.hashes.words(text), OVERLAP_WORDS)
        if not len(grams) or not len(self._all_G):
            return
        position = np.searchsorted(self._all_G, grams)
        position[position == len(self._all_G)] = 0
        self._seen_G[position[self._all_G[position] == grams]] = True

    def counts(self, number: int) -> tuple[int, int]:
        """Return (shared, all) distinct 13-grams of watched document `number`."""
        grams = self._grams[number]
        return int(self._seen_G[np.searchsorted(self._all_G, grams)].sum()), len(grams)
