"""The evaluation stage on a real tiny study: definitions, resume, conventions."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from dihal_core.backbones.loading import load_backbone
from dihal_core.bridges.arms import save_arms
from dihal_core.bridges.causality import random_arm
from dihal_core.contract import SettingsView, StageContext
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.evaluation.evaluate import build_evaluation
from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord, StageStore

LAYER = 2


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Settings, corpus record, replace record with four random arms at layer 2 (files in `arms/`, as stage replace leaves them)."""
    home = tmp_path_factory.mktemp("evaluate")
    settings = load_study("smoke")
    corpus = ensure(make_request("corpus", settings, {"assets": {}}, home))
    width = settings.backbone.hidden_size
    arms = {name: random_arm(settings.bridge, width, 0, name) for name in ("bridge", "regressor", "ridge", "skip")}
    frame = arms["bridge"].frame
    for arm in arms.values():
        arm.frame = frame
    folder = home / "replace" / "k"
    folder.mkdir(parents=True)
    save_arms(folder / "arms", arms, settings.bridge, LAYER)
    (folder / "replace.json").write_text(json.dumps({"layer": LAYER}))
    return settings, corpus, StageRecord("replace", "k", str(folder), "digest")


def context(study, home, unit: str = "heldout", progress=silent) -> StageContext:
    settings, corpus, replace = study
    view = SettingsView(settings, "evaluate", STAGES["evaluate"].reads)
    store = StageStore(home, "evaluate", "k")
    return StageContext(view, unit, {"assets": {}, "corpus": corpus, "replace": replace}, {}, store, progress)


def evaluate(study, home, unit: str = "heldout") -> dict:
    made = context(study, home, unit)
    build_evaluation(made)
    return json.loads((made.store.path / "evaluation.json").read_bytes())


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    return evaluate(study, tmp_path_factory.mktemp("report"))


def test_the_teacher_is_the_model_itself_under_the_stated_conventions(study, report):
    settings, corpus, _ = study
    windows = load_windows(corpus, "heldout")
    backbone = load_backbone(settings.backbone, {}, "cpu", settings.seed)
    total, tokens = 0.0, 0
    for row, length in zip(windows.tokens_NT, windows.lengths_N, strict=True):
        tokens_T = torch.from_numpy(np.array(row[:length], dtype=np.int64))
        with torch.no_grad():
            log_TV = backbone.model(tokens_T[None]).logits[0].double().log_softmax(-1)
        for t in range(1, int(length) - 1):
            total -= float(log_TV[t, tokens_T[t + 1]])
            tokens += 1
    teacher = report["arms"]["teacher"]
    assert report["tokens"] == tokens
    assert teacher["nll"]["value"] == pytest.approx(total / tokens, abs=1e-5)
    assert teacher["ppl"]["value"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert teacher["bits_per_byte"]["value"] == pytest.approx(total / windows.bytes_N.sum() / math.log(2), rel=1e-5)
    assert teacher["kl"] is None
    assert teacher["top1"] is None


def test_all_arms_and_comparisons_are_there_with_ordered_intervals(report):
    assert list(report["arms"]) == ["bridge@1", "bridge@2", "regressor", "ridge", "skip", "teacher"]
    assert {"bridge@1 - ridge", "bridge@1 - regressor", "bridge@1 - teacher", "bridge@2 - bridge@1"} <= set(
        report["differences"]
    )
    for arm, row in report["arms"].items():
        for name in ("nll", "bits_per_byte", *(() if arm == "teacher" else ("kl", "top1"))):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
    assert report["arms"]["ridge"]["kl"]["value"] > 0
    assert report["differences"]["bridge@1 - teacher"]["kl"] is None
    gap = report["arms"]["bridge@1"]["kl"]["value"] - report["arms"]["ridge"]["kl"]["value"]
    assert report["differences"]["bridge@1 - ridge"]["kl"]["value"] == pytest.approx(gap, abs=1e-9)


def test_documents_add_up_to_the_whole_and_the_report_says_how_it_was_made(report):
    documents = report["per_document"]
    assert len(documents["document"]) == report["documents"] == len(set(documents["document"]))
    for name in ("tokens", "bytes", "words"):
        assert sum(documents[name]) == report[name]
    for arm, row in report["arms"].items():
        assert sum(documents["arms"][arm]["nll"]) / report["tokens"] == pytest.approx(row["nll"]["value"])
    assert set(report["conventions"]) >= {"prefix", "window", "stride", "scored_from", "weighting"}
    assert report["leak"] == {
        "weights": "trained",
        "max_change": dict.fromkeys(["bridge", "regressor", "ridge", "skip"], 0.0),
    }
    assert (report["set"], report["layer"]) == ("heldout", LAYER)


def test_an_interrupted_evaluation_goes_on_and_ends_in_the_same_bytes(study, report, tmp_path):
    def stop(done: float, _total: float, _unit: str) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    interrupted = context(study, tmp_path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        build_evaluation(interrupted)
    assert len(interrupted.store.committed()) == 1
    assert evaluate(study, tmp_path) == report


def test_the_batch_size_changes_nothing_beyond_rounding(study, report, tmp_path):
    settings, corpus, replace = study
    larger = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"batch_sequences": 7})})
    again = evaluate((larger, corpus, replace), tmp_path)
    assert again["tokens"] == report["tokens"]
    for arm, row in again["arms"].items():
        assert row["nll"]["value"] == pytest.approx(report["arms"][arm]["nll"]["value"], abs=1e-4)


def test_damaged_weights_and_empty_sets_are_explained(study, tmp_path):
    settings, corpus, replace = study
    copy = tmp_path / "copy"
    shutil.copytree(replace.path, copy)
    (copy / "arms" / "bridge.safetensors").write_bytes(b"not weights")
    broken = StageRecord("replace", "k", str(copy), "digest")
    with pytest.raises(ArtifactError, match="bridge weights in"):
        evaluate((settings, corpus, broken), tmp_path / "a")
    with pytest.raises(ConfigError, match="unknown split 'wiki'"):
        evaluate(study, tmp_path / "b", unit="wiki")
