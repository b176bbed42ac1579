"""A complete synthetic study: JSON as the stages write it, 29 candidate layers, one of them missing from the sweep."""

import copy
import itertools
import json
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dihal_core.config import StudySettings
from dihal_core.contract import SettingsView, StageContext
from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.reporting.results import StudyResults
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord, StageStore

Json = dict[str, Any]
LAYERS = 30
MISSING = 7
HOSTILE = '<script>alert("x")</script> & $\\frac{1}{0}$ | co.'


def interval(value: float, half_width: float) -> Json:
    return {"value": value, "low": value - half_width, "high": value + half_width}


def make_score() -> Json:
    layers = []
    for layer in range(LAYERS + 1):
        candidate = 1 <= layer <= LAYERS - 1
        curvature = 4.2e-3 * math.exp(-0.15 * layer) if layer else 1e6
        score = 7.25 * math.exp(-0.25 * (layer - 1)) - 0.1 * layer + 0.4 * math.sin(layer)
        layers.append(
            {
                "layer": layer,
                "candidate": candidate,
                "curvature": interval(curvature, 0.05 * curvature),
                "monotonicity": interval(70 * curvature, 4 * curvature),
                "effective_rank": interval(2.1 + 10 * abs(math.sin(layer / 5)), 0.4),
                "score": interval(score, 0.5) if candidate else None,
                "rank": layer if candidate else None,
                "selection_probability": {1: 0.91, 2: 0.085, 3: 0.005}.get(layer, 0.0) if candidate else None,
                "log_mean_norm": math.log(2.74 + 30 * layer),
                "trace": 7.0 + 1930.0 * layer**1.5,
                "outlier_rows": 26 if 3 <= layer <= 9 else 0,
                "outlier_trace_share": 0.7 if 3 <= layer <= 9 else 0.0,
                "duplicate_rows": 4800 if layer == 0 else 0,
                "top_dimension": 507,
                "top_dimension_share": 0.46 if 3 <= layer <= 9 else 0.051,
                "max_norm_ratio": 22_000 / 140 if layer > 11 else 4.5,
                "identity_ratio": None if layer == 0 else 0.4803,
            }
        )
    variants = ("raw", "eps_relative", "unit_trace", "unit_trace_without_outliers", "curvature", "monotonicity",
                "minus_effective_rank", "depth", "minus_log_norm")  # fmt: skip
    return {
        "candidate_layers": list(range(1, LAYERS)),
        "selected_layer": 1,
        "selection_probability": {
            str(row["layer"]): row["selection_probability"] for row in layers if row["candidate"]
        },
        "layers": layers,
        "variants": {
            name: {"scores": {str(k): 1.0 / k for k in range(1, LAYERS)}, "selected": 3 if "unit" in name else 1}
            for name in variants
        },
        "stability": {
            "large": {"spearman": 0.998, "kendall": 0.981},
            "small": {"spearman": 0.991, "kendall": 0.955},
            "large_vs_small": {"spearman": 0.999, "kendall": 0.99},
        },
        "rows": 8000,
        "documents": 1312,
        "flags": [
            "Layers 3 to 9: 26 rows with norm above 4 times the median carry 70 % of the trace, in dimension 507.",
            "Spearman of S with log mean norm is -0.96: the raw score largely measures the norm.",
        ],
    }


def make_sweep(layer: int) -> Json:
    fvu = 0.23 + 0.5 * (1 - math.exp(-layer / 3)) + 0.02 * math.sin(layer)
    kl = 0.35 + 0.09 * layer

    def arm(factor: float, **changes: Any) -> Json:
        return {
            "fvu": fvu * factor,
            "fvu_without_outliers": fvu * factor * 0.98,
            "relative_mse": 0.6 * fvu * factor,
            "raw_mse": 40.0 * layer**1.6 * fvu * factor,
            "paper_bridge_loss": 0.9 * fvu * factor,
            "kl": kl * factor,
            "nll": 3.0 + kl * factor,
            "parameters": 4_812_345,
            "steps": 24,
            "tokens": 24_192,
            "flops": 9.6e11,
            **changes,
        }

    without_likelihood = {"kl": None, "nll": None}
    arms = {
        "bridge": arm(1.0),
        "ridge": arm(0.97 if layer < 12 else 1.02),
        "skip": arm(4.0, **without_likelihood),
        "regressor": arm(0.99, **without_likelihood) if layer % 7 == 1 else None,
    }
    return {
        "layer": layer,
        "arms": arms,
        "teacher": {"nll": 3.002},
        "curve": [{"step": s, "tokens": 1008 * s, "loss": fvu + 1.0 / (s + 1)} for s in range(24)],
        "validation": {"documents": 31, "windows": 64, "states": 7741, "scored_tokens": 1377, "outlier_share": 0.004},
        "per_document": {"bridge": {"document": [1, 2], "sse": [1.0, 2.0], "sst": [3.0, 4.0]}},
        "objective": {"bridge": {"diffusion": 0.5, "reconstruction": 0.5, "next_token": 0.0, "distillation": 0.0}},
        "flags": [f"layer {layer}: the trained bridge does not improve on the ridge"] if layer == 3 else [],
    }


def make_agreement(score: Json, sweeps: dict[int, Json]) -> Json:
    scores = {row["layer"]: row["score"]["value"] for row in score["layers"] if row["candidate"]}
    losses = ("fvu", "paper_bridge_loss", "relative_mse", "raw_mse", "kl", "nll")
    points = [
        {"layer": k, "score": scores[k], **{loss: block["arms"]["bridge"][loss] for loss in losses}}
        for k, block in sweeps.items()
    ]
    predictors = {
        name: {"spearman": value, "kendall": value - 0.12, "selected": 1, "rank_gap": 0}
        for name, value in (
            ("raw", 0.812), ("eps_relative", 0.815), ("unit_trace", 0.34), ("unit_trace_without_outliers", -0.21),
            ("curvature", 0.955), ("monotonicity", 0.953), ("minus_effective_rank", 0.12), ("depth", 0.961),
            ("minus_log_norm", 0.948), ("ridge_r2", 0.99),
        )
    }  # fmt: skip

    def block(loss: str) -> Json:
        return {
            "spearman": {"value": 0.812, "low": 0.604, "high": 0.921, "p": 0.0005},
            "kendall": {"value": 0.661, "low": 0.43, "high": 0.8, "p": 0.0005},
            "best_predicted": 1,
            "best_observed": 1 if loss != "raw_mse" else 2,
            "rank_gap": 0 if loss != "raw_mse" else 1,
            "regret": {"1": 0.0, "3": 0.0, "5": 0.0},
            "predictors": predictors,
            "partial": {
                "given_depth": {"value": 0.05, "low": -0.31, "high": 0.4, "p": 0.71},
                "given_log_norm": {"value": 0.11, "low": -0.28, "high": 0.44, "p": 0.52},
                "given_ridge": {"value": None, "low": None, "high": None, "p": None},
            },
        }

    return {
        "losses": {loss: block(loss) for loss in losses},
        "rules": {
            "early": {"layer": 5, "loss": 0.62, "rank": 5},
            "middle": {"layer": 15, "loss": 0.71, "rank": 17},
            "late": {"layer": 24, "loss": 0.73, "rank": 26},
            "score": {"layer": 1, "loss": 0.36, "rank": 1},
        },
        "missing_layers": [MISSING],
        "points": points,
        "interval": "layers resampled with replacement, each time with the score of another resample of documents",
        "sentences": ["The score adds nothing beyond depth: the interval of the partial correlation covers 0."],
    }


def make_evaluation(name: str) -> Json:
    def arm(nll: float, kl: float | None) -> Json:
        return {
            "nll": interval(nll, 0.05),
            "ppl": {"value": math.exp(nll), "low": math.exp(nll - 0.05), "high": math.exp(nll + 0.05)},
            "bits_per_byte": interval(nll / 3, 0.02),
            "word_ppl": {"value": math.exp(1.4 * nll), "low": math.exp(1.37 * nll), "high": math.exp(1.43 * nll)},
            "kl": None if kl is None else interval(kl, 0.02),
            "top1": None if kl is None else interval(0.83 - 0.1 * kl, 0.01),
        }

    arms = {
        "teacher": arm(3.0, None),
        "bridge@1": arm(3.21, 0.252),
        "bridge@4": arm(3.2, 0.247),
        "regressor": arm(3.22, 0.26),
        "ridge": arm(3.16, 0.214),
        "skip": arm(11.2, 8.2),
    }
    return {
        "set": name,
        "layer": 1,
        "windows": 160,
        "documents": 41,
        "tokens": 19_337,
        "bytes": 84_210,
        "words": 14_001,
        "conventions": {
            "prefix": "<|endoftext|>",
            "window": 128,
            "stride": 128,
            "scored_from": 2,
            "weighting": "token",
        },
        "arms": arms,
        "differences": {
            "bridge@1 - ridge": {"nll": interval(0.05, 0.02), "kl": interval(0.038, 0.011)},
            "bridge@1 - regressor": {"nll": interval(-0.01, 0.02), "kl": interval(-0.008, 0.011)},
            "bridge@1 - teacher": {"nll": interval(0.21, 0.03), "kl": None},
            "bridge@1 - skip": {"nll": interval(-8.0, 0.3), "kl": interval(-7.9, 0.2)},
            "bridge@4 - bridge@1": {"nll": interval(-0.01, 0.02), "kl": interval(-0.005, 0.002)},
            "bridge@4 - ridge": {"nll": interval(0.04, 0.02), "kl": interval(0.033, 0.011)},
        },
        "leak": {"weights": "trained", "max_change": {"bridge": 0.0, "ridge": 0.0}},
        "per_document": {"bridge@1": {"document": [1], "nll": [3.2]}},
    }


def make_corpus() -> Json:
    sources = []
    for source, windows, origin in (("wiki", 3000, "gensim 4.4.0"), ("news", 2100, HOSTILE), ("plays", 900, "nltk")):
        sources.append(
            {
                "source": source,
                "origin": origin,
                "licence": "CC BY-SA 3.0",
                "documents": windows // 9,
                "windows": {"train": windows, "heldout": windows // 40},
                "tokens": {"train": windows * 121, "heldout": windows * 3},
                "rejects": {"too_short": 41, "not_english": 3},
            }
        )
    return {
        "sources": sources,
        "splits": {
            "train": {"windows": 6000, "documents": 666, "tokens": 726_000},
            "heldout": {"windows": 160, "documents": 44, "tokens": 19_200},
            "eval_wiki": {"windows": 160, "documents": 41, "tokens": 19_337},
        },
        "overlap": {
            "heldout_documents_dropped": 2,
            "shared_13gram_fraction": {"wiki": 0.0012, "news": 0.0, "plays": None},
        },
        "rejects": {"too_short": 123, "not_english": 9, "damaged_line": 0},
        "missing": ["No code was available offline."],
        "separator": {"token": "<|endoftext|>", "id": 0},
        "origins": [{"name": "gensim", "version": "4.4.0", "files": {"a.gz": "ab" * 32}}],
    }


def make_gates() -> Json:
    return {
        "splice": {
            "layers": [{"layer": k, "max_abs_logit_difference": 0.0} for k in range(1, LAYERS)],
            "max": 0.0,
            "tokens": 640,
            "dtype": "bfloat16",
        },
        "leak": {
            "bridges": [{"kind": "mlp", "weights": "random", "max_change": 0.0}],
            "backbone": {"max_change": 0.0},
            "control": {"max_change": 0.88, "caught": True},
        },
    }


def make_replace() -> Json:
    generator = np.random.Generator(np.random.PCG64(3))
    noise = generator.normal(0, 0.02, 300)

    def curve(offset: float) -> list[Json]:
        return [
            {"step": s, "tokens": 1008 * (s + 1), "loss": 0.2 + offset + 0.5 / (1 + s / 12) + float(abs(noise[s]))}
            for s in range(300)
        ]

    arm = {"parameters": 4_812_345, "steps": 300, "tokens": 302_400, "flops": 1.2e13}
    return {
        "layer": 1,
        "arms": {
            "bridge": {**arm, "fvu": 0.231},
            "regressor": {**arm, "fvu": 0.239},
            "ridge": {"parameters": 995_328, "steps": 0, "tokens": 726_000, "flops": None, "fvu": 0.246},
            "skip": {"parameters": 0, "steps": 0, "tokens": 0, "flops": 0.0, "fvu": 1.9},
        },
        "curve": {"bridge": curve(0.0), "regressor": curve(0.01)},
        "validation_curve": {
            arm: [{"step": s, "fvu": level + 0.2 / s} for s in (50, 100, 150, 200, 250, 300)]
            for arm, level in (("bridge", 0.2303), ("regressor", 0.2383))
        },
        "validation": {"documents": 44, "windows": 160, "states": 19_000},
    }


def make_cost() -> Json:
    row = {
        "kl": interval(0.21, 0.02),
        "nll": interval(3.4, 0.1),
        "ppl": interval(32.0, 4.0),
        "top1": interval(0.8, 0.02),
    }
    flops = {"replaced blocks": 7.1e6, "kept blocks": 2.05e8, "head": 5.7e7, "backbone": 2.69e8, "bridge@1": 1.2e7}
    return {
        "layer": 1, "set": "eval_wiki", "windows": 12, "documents": 12, "tokens": 1512,
        "teacher": {"nll": interval(3.3, 0.1), "ppl": interval(27.7, 4.0)},
        "curve": {"1": {**row, "kl_difference": None}, "4": {**row, "kl_difference": interval(-0.005, 0.002)}},
        "flops_per_token": {**flops, "hybrid@1": 2.74e8}, "timed": {"windows": 4, "positions": 128, "rounds": 5},
    }  # fmt: skip


def make_data() -> Json:
    """Return all JSON results of one synthetic study, by stage (units by layer or set)."""
    score = make_score()
    sweeps = {layer: make_sweep(layer) for layer in range(1, LAYERS) if layer != MISSING}
    return {
        "corpus": make_corpus(),
        "gates": make_gates(),
        "activations": {
            "layers": list(range(LAYERS + 1)), "sequences": 2000, "pool_rows": 8000, "whole_sequences": 640,
            "bytes": 2_950_000_000, "dtype": "bfloat16", "verified_rows": 496, "tokens": 242_000,
        },
        "geometry": {layer: {"layer": layer, "outlier_rows": 3, "without_outliers": [{"index": 0}]} for layer in range(LAYERS + 1)},
        "score": score,
        "sweep": sweeps,
        "agreement": make_agreement(score, sweeps),
        "replace": make_replace(),
        "evaluate": {name: make_evaluation(name) for name in ("eval_wiki", "heldout")},
        "cost": make_cost(),
    }  # fmt: skip


VALUES = {
    "backbone_identity": {"weights": "cd" * 32},
    "failed_layers": {str(MISSING): "loss became NaN at step 11"},
    "study_name": "quickstart-smollm2-s0",
}
FILES = {"geometry": "diagnostics.json", "evaluate": "evaluation.json"}


def write_store(home: Path, stage: str, unit: str | int | None, block: Json, seconds: float) -> StageRecord:
    """Write one finished store holding `block` and return its record."""
    store = StageStore(home, stage, "0" * 24 if unit is None else f"{unit}-{'0' * 24}")
    store.write_json(FILES.get(stage, f"{stage}.json"), block)
    if stage == "geometry":
        store.write_bytes("proxies.csv", b"layer,subsample,curvature\n")
    document = {"code": {f"dihal_core.{stage}": "ab" * 32}, "libraries": {"numpy": "2.3.0"}}
    counts = {"seconds": seconds, "tokens": 1000, "rows": 7}
    if stage == "cost":
        found = {"median": 1e-5 * seconds, "low": 0.9e-5 * seconds, "high": 2e-5 * seconds}
        counts["seconds_per_token"] = dict.fromkeys(("backbone", "bridge@1", "hybrid@1", "hybrid@1 / backbone"), found)
    return store.finalize(counts, {"request": document}, unit)


def make_context(
    home: Path,
    data: Json,
    settings: StudySettings | None = None,
    values: Json | None = None,
    seconds: float = 12.5,
) -> StageContext:
    """Return the context the report builder gets: real stores on disk for every block of `data`."""
    inputs: dict[str, Any] = {}
    for stage, block in data.items():
        if stage in ("geometry", "sweep", "evaluate"):
            inputs[stage] = {unit: write_store(home, stage, unit, item, seconds) for unit, item in block.items()}
        else:
            inputs[stage] = write_store(home, stage, None, block, seconds)
    settings = settings or load_study("quickstart")
    values = {**VALUES, **(values or {})}
    view = SettingsView(settings, "report", STAGES["report"].reads)
    return StageContext(view, None, inputs, values, StageStore(home, "report", "f" * 24), silent)


def make_results(data: Json, settings: StudySettings | None = None, values: Json | None = None) -> StudyResults:
    """Return what `load_results` reads from the stores of `make_context`, without any store."""
    values = {**VALUES, **(values or {})}
    names = {"sweep": "sweeps", "evaluate": "evaluations"}
    return StudyResults(
        settings=(settings or load_study("quickstart")).model_dump(mode="json"),
        study_name=values["study_name"],
        identity=values["backbone_identity"],
        records=(),
        manifests={},
        failed={int(layer): message for layer, message in values["failed_layers"].items()},
        **{names.get(stage, stage): block for stage, block in data.items()},
    )


@pytest.fixture
def data() -> Json:
    """A fresh copy of the synthetic study, to be changed at will."""
    return copy.deepcopy(make_data())


@pytest.fixture
def context_for(tmp_path: Path):
    """Return `make_context` bound to a new home in this test's folder at every call."""
    homes = (tmp_path / f"home{number}" for number in itertools.count())
    return lambda block, **options: make_context(next(homes), block, **options)


@pytest.fixture
def results_for():
    """Return `make_results`: the results of a changed study without writing stores."""
    return make_results


@pytest.fixture(scope="session")
def study():
    """The builders of this file, for fixtures that live longer than one test."""
    return types.SimpleNamespace(make_data=make_data, make_context=make_context)


@pytest.fixture(scope="session")
def read_json():
    """Return a reader of JSON files."""
    return lambda path: json.loads(Path(path).read_bytes())
