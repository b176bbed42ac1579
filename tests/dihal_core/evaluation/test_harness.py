"""The hybrid under lm-eval: its figures are the model's own, hybrid and teacher under one convention."""

import json
import math
import sys

import pytest
import torch

from dihal_core.backbones.loading import fresh_backbone
from dihal_core.backbones.tokenizers import load_tokenizer
from dihal_core.bridges.causality import random_arm
from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.evaluation.harness import harness_model, require_harness
from dihal_core.evaluation.harness_task import evaluate_with_harness, study_pages, write_task
from dihal_core.hybrid.assemble import assemble
from dihal_core.hybrid.tokenizer import hybrid_tokenizer, tokens_of
from dihal_core.profiles import load_study

SETTINGS = load_study("smoke")
PAGES = [
    {"title": "One", "page": "Where does it enter?\n\nNobody  knows yet, said <|endoftext|> the page. " * 3},
    {"title": "Two", "page": "Short."},
]


@pytest.fixture(scope="module")
def hybrid():
    """A random hybrid of the smoke backbone and its tokenizer."""
    backbone = fresh_backbone(SETTINGS.backbone, {}, seed=0)
    tokenizer = load_tokenizer(SETTINGS.backbone, {})
    arm = random_arm(SETTINGS.bridge, backbone.hidden_size, seed=1)
    tokens = tokens_of(tokenizer, SETTINGS.backbone)
    model = assemble(backbone, arm, 2, SETTINGS.backbone, SETTINGS.bridge, tokens, window_tokens=16)
    return model, hybrid_tokenizer(tokenizer, SETTINGS.backbone)


def by_hand(model, tokenizer, text: str, teacher: bool) -> float:
    """Sum of log-probabilities: windows of 16, separator and last token of the window before in front."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    separator, total = model.config.separator_token_id, 0.0
    for start in range(0, len(ids), 15):
        given = [separator, *ids[max(start - 1, 0) : start], *ids[start : start + 15]]
        scored = len(ids[start : start + 15])
        tokens_1T = torch.tensor([given[:-1]])
        source = model.blocks if teacher else model
        log_TV = torch.log_softmax(source(tokens_1T).logits[0].float(), -1)
        total += sum(float(log_TV[t, given[t + 1]]) for t in range(len(given) - 1 - scored, len(given) - 1))
    return total


def test_without_the_extra_there_is_a_sentence(hybrid, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"needs the extra packages of dihal\[lm-eval\]"):
        require_harness()


@pytest.mark.parametrize("window", [2, 100_000])
def test_a_window_out_of_bounds_is_refused(window, hybrid):
    with pytest.raises(ConfigError, match=f"window_tokens {window} is outside 3.."):
        harness_model(*hybrid, window_tokens=window)


def test_pages_come_from_a_study_with_the_offline_corpus(tmp_path):
    folder = tmp_path / "studies" / "smoke"
    with pytest.raises(ArtifactError, match="cannot be read"):
        study_pages(folder)
    folder.mkdir(parents=True)
    (tmp_path / "corpus" / "key").mkdir(parents=True)
    (tmp_path / "corpus" / "key" / "documents.jsonl").write_text(
        json.dumps({"id": "a", "split": "eval_wiki", "title": "A"}) + "\n"
    )
    data = {"settings": SETTINGS.model_dump(mode="json"), "records": [{"stage": "corpus", "store": "corpus/key"}]}
    (folder / "study.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="corpus.kind=builtin and 1 wiki pages"):
        study_pages(folder)


def test_the_task_is_two_files(tmp_path):
    folder = write_task(tmp_path / "task", PAGES)
    assert [json.loads(line)["title"] for line in (folder / "pages.jsonl").read_text().splitlines()] == ["One", "Two"]
    assert json.loads((folder / "dihal_wiki.yaml").read_text())["output_type"] == "loglikelihood_rolling"


@pytest.mark.slow  # where the extra is installed
def test_lm_eval_finds_the_word_perplexity_of_the_model(hybrid, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra dihal[lm-eval] is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = evaluate_with_harness(*hybrid, PAGES, tmp_path / "task")
    words = sum(len(page["page"].split()) for page in PAGES) + sum(page["page"].endswith(" ") for page in PAGES)
    size = sum(len(page["page"].encode()) for page in PAGES)
    for name in ("hybrid", "teacher"):
        total = sum(by_hand(*hybrid, page["page"], name == "teacher") for page in PAGES)
        assert found[name]["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-4)
        assert found[name]["word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-3)
    assert found["hybrid"]["bits_per_byte"] != pytest.approx(found["teacher"]["bits_per_byte"], rel=1e-3)


@pytest.mark.slow  # where the extra is installed
def test_choices_and_generated_text_go_through_the_same_model(hybrid):
    pytest.importorskip("lm_eval", reason="the extra dihal[lm-eval] is not installed")
    from lm_eval.api.instance import Instance

    model, tokenizer = hybrid
    adapter = harness_model(model, tokenizer, batch_size=2)
    pairs = [("Where", " here"), ("", "there"), ("A much longer context than the window holds", " yes")]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    together = adapter.loglikelihood(asked)
    for request, (total, _) in zip(asked, together, strict=True):
        assert total == pytest.approx(adapter.loglikelihood([request])[0][0], abs=1e-3)
    ids = tokenizer("Where here")["input_ids"]
    log_TV = torch.log_softmax(model(torch.tensor([ids[:-1]])).logits[0].float(), -1)
    assert together[0][0] == pytest.approx(sum(float(log_TV[t, ids[t + 1]]) for t in range(5, len(ids) - 1)), abs=1e-3)
    options = {"until": ["zzzz"], "max_gen_toks": 5}
    text = adapter.generate_until([Instance("generate_until", {}, ("Where", options), 0)])[0]
    out = model.generate(**tokenizer(["Where"], return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert text == tokenizer.decode(out[0, 6:], skip_special_tokens=True)
