"""Documents to windows of fixed length.

Letters: N windows of one document, T tokens per window, S text tokens, C characters, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dihal_core.corpus.documents import Document, seeded_rank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dihal_core.corpus.prepared import Prepared

MAX_DOCUMENT_CHARACTERS = 1_000_000
"""Longer documents give windows of their first million characters (ours): one book must not fill memory."""

_WHITE_SPACE = np.array(
    [*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)


@dataclasses.dataclass(frozen=True)
class DocumentWindows:
    """Windows chosen from one document, in a seeded order."""

    document: Document
    identity: str
    tokens_NT: np.ndarray
    lengths_N: np.ndarray
    bytes_N: np.ndarray
    words_N: np.ndarray
    index_N: np.ndarray
    """Number of the window within the document."""

    def __len__(self) -> int:
        return len(self.lengths_N)


class WindowEncoder:
    """Cuts documents into windows: separator, then text, then padding.

    Text that looks like a control token is encoded as plain text, so that no document can inject a
    separator. Documents are encoded whole and alone; a window never crosses into another one.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        separator_id: int,
        pad_id: int,
        window_tokens: int,
        min_window_tokens: int,
        seed: int,
    ):
        self.tokenizer, self.separator_id, self.pad_id = tokenizer, separator_id, pad_id
        self.window_tokens, self.min_window_tokens, self.seed = window_tokens, min_window_tokens, seed
        unknown: Any = tokenizer.unk_token_id
        special = set(tokenizer.all_special_ids) - {unknown}
        self._is_control_V = np.zeros(max(len(tokenizer), separator_id + 1), dtype=bool)
        self._is_control_V[sorted({separator_id, *special})] = True
        self.cut_documents = 0
        self.prepared: Prepared | None = None
        """Windows made earlier: looked up before a document is encoded."""

    def encode(self, documents: Sequence[Document], cap: int) -> list[DocumentWindows | str]:
        """Return the windows of each document, or the reason why it has none.

        Parameters
        ----------
        documents
            Encoded as one batch; the result depends on each document alone.
        cap
            Most windows per document; which ones is decided by a seeded hash, not by position.
        """
        if self.prepared is not None:
            found = [self.prepared.find(document, cap) for document in documents]
            fresh = iter(self.encode_anew([d for d, known in zip(documents, found, strict=True) if known is None], cap))
            result = [next(fresh) if known is None else known for known in found]
        else:
            result = self.encode_anew(documents, cap)
        self.cut_documents += sum(len(document.text) > MAX_DOCUMENT_CHARACTERS for document in documents)
        return result

    def encode_anew(self, documents: Sequence[Document], cap: int) -> list[DocumentWindows | str]:
        """Do what `encode` does, without looking anything up or counting."""
        if not documents:
            return []
        texts = [document.text[:MAX_DOCUMENT_CHARACTERS] for document in documents]
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [
            self._windows(
                document, text, np.asarray(ids, dtype=np.int32), np.array([end for _, end in offsets], dtype=int), cap
            )
            for document, text, ids, offsets in zip(
                documents, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
            )
        ]

    def _windows(
        self, document: Document, text: str, ids_S: np.ndarray, ends_S: np.ndarray, cap: int
    ) -> DocumentWindows | str:
        if self._is_control_V[ids_S].any():
            return "control_token"
        body = self.window_tokens - 1
        starts = [
            start for start in range(0, len(ids_S), body) if min(body, len(ids_S) - start) + 1 >= self.min_window_tokens
        ]
        if not starts:
            return "too_short"
        identity = document.identity
        chosen = sorted(starts, key=lambda start: seeded_rank(self.seed, "choose", identity, start // body))[:cap]
        bytes_C, words_C = text_counts(text)
        tokens_NT = np.full((len(chosen), self.window_tokens), self.pad_id, dtype=np.int32)
        tokens_NT[:, 0] = self.separator_id
        lengths, byte_counts, word_counts = [], [], []
        for row, start in enumerate(chosen):
            stop = min(start + body, len(ids_S))
            tokens_NT[row, 1 : stop - start + 1] = ids_S[start:stop]
            first, last = ends_S[start], ends_S[stop - 1]
            lengths.append(stop - start + 1)
            byte_counts.append(bytes_C[last] - bytes_C[first])
            word_counts.append(words_C[last] - words_C[first])
        return DocumentWindows(
            document,
            identity,
            tokens_NT,
            np.array(lengths, dtype=np.int32),
            np.array(byte_counts, dtype=np.int32),
            np.array(word_counts, dtype=np.int32),
            np.array([start // body for start in chosen], dtype=np.int32),
        )


def text_counts(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every prefix of `text`, its UTF-8 bytes and the words that start in it.

    Differences of these give the counts of any slice, and slices add up. A token that holds part of a
    character ends, in the tokenizer's offsets, behind the whole character.

    Returns
    -------
    bytes_C, words_C
        int64 of shape (C + 1,).
    """
    code_C = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    width_C = 1 + (code_C > 0x7F).astype(np.int64) + (code_C > 0x7FF) + (code_C > 0xFFFF)
    blank_C = np.isin(code_C, _WHITE_SPACE)
    starts_C = ~blank_C & np.concatenate([[True], blank_C[:-1]]) if len(code_C) else blank_C
    zero = np.zeros(1, dtype=np.int64)
    return np.concatenate([zero, np.cumsum(width_C)]), np.concatenate([zero, np.cumsum(starts_C, dtype=np.int64)])
