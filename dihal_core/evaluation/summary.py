"""From sums per window to the tables of an evaluation: arms, paired differences, documents.

Letters: W windows, G documents.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dihal_core.corpus.windows import Windows
from dihal_core.errors import ConfigError
from dihal_core.evaluation.intervals import DocumentBootstrap, bits, perplexity, sum_by_document
from dihal_core.seeding import stream

TEACHER = "teacher"
CONTROLS = ("ridge", "ridge-1", "ridge-all", "regressor", "table", "skip")


def summarise(
    sums: Mapping[str, Any], windows: Windows, replicates: int, confidence: float, seed: int, name: str
) -> dict[str, Any]:
    """Return counts, `arms`, `differences` and `per_document` of one set.

    Parameters
    ----------
    sums
        `tokens` (W,) and `arms[arm][nll|kl|top1]` (W,), sums over scored predictions of each window;
        the teacher has `nll` only.
    windows
        The set: documents, bytes and words per window. Windows without a scored prediction are left out.

    Raises
    ------
    ConfigError
        If no window has a scored prediction.
    """
    scored_W = np.asarray(sums["tokens"]) > 0
    if not scored_W.any():
        raise ConfigError(f"evaluation set {name!r} has no window of 3 tokens or more; nothing can be scored")
    document_G, index_W = np.unique(np.asarray(windows.document_N)[scored_W], return_inverse=True)

    def total(values_W: np.ndarray) -> np.ndarray:
        return sum_by_document(np.asarray(values_W)[scored_W], index_W, len(document_G))

    counts = {
        "tokens": total(sums["tokens"]),
        "bytes": total(np.asarray(windows.bytes_N)),
        "words": total(np.asarray(windows.words_N)),
    }
    arms_G = {
        arm: {quantity: total(values_W) for quantity, values_W in columns.items()}
        for arm, columns in sums["arms"].items()
    }
    boot = DocumentBootstrap(len(document_G), replicates, confidence, stream(seed, "evaluation", "bootstrap", name))
    return {
        "windows": int(scored_W.sum()),
        "documents": len(document_G),
        **{key: int(value_G.sum()) for key, value_G in counts.items()},
        "arms": {arm: _row(boot, columns, counts) for arm, columns in arms_G.items()},
        "differences": _differences(boot, arms_G, counts["tokens"]),
        "per_document": {
            "document": document_G.tolist(),
            **{key: value_G.astype(int).tolist() for key, value_G in counts.items()},
            "arms": {
                arm: {quantity: value_G.tolist() for quantity, value_G in columns.items()}
                for arm, columns in arms_G.items()
            },
        },
    }


def _row(
    boot: DocumentBootstrap, columns: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    nll_G = columns["nll"]
    return {
        "nll": boot.ratio(nll_G, counts["tokens"]),
        "ppl": boot.ratio(nll_G, counts["tokens"], perplexity),
        "bits_per_byte": boot.ratio(nll_G, counts["bytes"], bits),
        "word_ppl": boot.ratio(nll_G, counts["words"], perplexity),
        "kl": boot.ratio(columns["kl"], counts["tokens"]) if "kl" in columns else None,
        "top1": boot.ratio(columns["top1"], counts["tokens"]) if "top1" in columns else None,
    }


def _differences(
    boot: DocumentBootstrap, arms_G: Mapping[str, Mapping[str, np.ndarray]], tokens_G: np.ndarray
) -> dict[str, Any]:
    """Compare every bridge with controls and teacher, and more sampler steps with the first choice."""
    bridges = [arm for arm in arms_G if arm.startswith("bridge@")]
    pairs = [(bridge, other) for bridge in bridges for other in (*CONTROLS, TEACHER) if other in arms_G]
    pairs += [(bridge, bridges[0]) for bridge in bridges[1:]]
    return {
        f"{first} - {second}": {
            quantity: boot.difference(arms_G[first][quantity], arms_G[second][quantity], tokens_G)
            if quantity in arms_G[first] and quantity in arms_G[second]
            else None
            for quantity in ("nll", "kl")
        }
        for first, second in pairs
    }
