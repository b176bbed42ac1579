"""Tables of an evaluation from sums per window: closed forms."""

import math

import numpy as np
import pytest

from dihal_core.corpus.windows import Windows
from dihal_core.errors import ConfigError
from dihal_core.evaluation.summary import summarise


def windows(document=(5, 5, 9), byte_counts=(8, 12, 20), words=(2, 2, 4)) -> Windows:
    count = len(document)
    return Windows(
        tokens_NT=np.zeros((count, 8), np.int32),
        lengths_N=np.full(count, 8, np.int32),
        document_N=np.array(document, np.int32),
        source_N=np.zeros(count, np.int16),
        bytes_N=np.array(byte_counts, np.int32),
        words_N=np.array(words, np.int32),
        sources=("s",),
        separator_id=0,
        pad_id=0,
    )


SUMS = {
    "tokens": np.array([2, 3, 5]),
    "arms": {
        "teacher": {"nll": np.array([2.0, 3.0, 15.0])},
        "bridge@1": {"nll": np.array([4.0, 3.0, 23.0]), "kl": np.array([1.0, 0.0, 4.0]), "top1": np.array([2, 2, 1.0])},
        "ridge": {"nll": np.array([5.0, 5.0, 30.0]), "kl": np.array([2.0, 2.0, 6.0]), "top1": np.array([1, 1, 1.0])},
    },
}


def test_every_number_is_a_ratio_of_sums():
    report = summarise(SUMS, windows(), 200, 0.9, 0, "s")
    assert (report["windows"], report["documents"], report["tokens"], report["bytes"], report["words"]) == (
        3,
        2,
        10,
        40,
        8,
    )
    bridge = report["arms"]["bridge@1"]
    assert bridge["nll"]["value"] == 3.0
    assert bridge["ppl"]["value"] == pytest.approx(math.exp(3.0))
    assert bridge["bits_per_byte"]["value"] == pytest.approx(30 / 40 / math.log(2))
    assert bridge["word_ppl"]["value"] == pytest.approx(math.exp(30 / 8))
    assert (bridge["kl"]["value"], bridge["top1"]["value"]) == (0.5, 0.5)
    assert report["arms"]["teacher"]["kl"] is None
    assert report["differences"]["bridge@1 - teacher"] == {
        "nll": report["differences"]["bridge@1 - teacher"]["nll"],
        "kl": None,
    }
    assert report["differences"]["bridge@1 - ridge"]["nll"]["value"] == pytest.approx(-1.0)
    assert report["per_document"]["document"] == [5, 9]
    assert report["per_document"]["arms"]["bridge@1"]["kl"] == [1.0, 4.0]


def test_windows_without_a_scored_prediction_count_for_nothing():
    sums = {
        "tokens": np.array([2, 3, 5, 0]),
        "arms": {
            arm: {name: np.append(values, 0.0) for name, values in columns.items()}
            for arm, columns in SUMS["arms"].items()
        },
    }
    larger = windows((5, 5, 9, 11), (8, 12, 20, 99), (2, 2, 4, 7))
    assert summarise(sums, larger, 200, 0.9, 0, "s") == summarise(SUMS, windows(), 200, 0.9, 0, "s")
    nothing = {"tokens": np.zeros(3), "arms": SUMS["arms"]}
    with pytest.raises(ConfigError, match="nothing can be scored"):
        summarise(nothing, windows(), 10, 0.9, 0, "s")


def test_a_set_without_words_has_no_word_perplexity_but_all_else():
    report = summarise(SUMS, windows(words=(0, 0, 0)), 200, 0.9, 0, "s")
    assert report["arms"]["teacher"]["word_ppl"] == {"value": None, "low": None, "high": None}
    assert report["arms"]["teacher"]["nll"]["value"] == 2.0
