"""The stage `hybrid`: a folder that transformers loads, whose model says what evaluation measured, with a card."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dihal_core.backbones.loading import load_backbone
from dihal_core.bridges.arms import load_arms
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError, AssetError, ConfigError
from dihal_core.files import MANIFEST
from dihal_core.hybrid.export import copy_hybrid
from dihal_core.hybrid.generation import beyond_training, continue_texts, open_hybrid
from dihal_core.hybrid.model import Hybrid
from dihal_core.hybrid.sources import asset_records, homes_near
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.study import publish_hybrid, request_for
from flows.cli import main

SETTINGS = load_study("smoke")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Records of the stages that a hybrid comes from, and of the hybrid."""
    home = tmp_path_factory.mktemp("hybrid") / "runs"
    records: dict = {"assets": {}}
    records["corpus"] = ensure(request_for("corpus", SETTINGS, home, records))
    inputs = {"assets": {}, "corpus": records["corpus"]}
    records["replace"] = ensure(make_request("replace", SETTINGS, inputs, home, values={"layer": 2}))
    records["evaluate"] = {
        unit: ensure(request_for("evaluate", SETTINGS, home, records, unit)) for unit in ("eval_wiki", "heldout")
    }
    records["hybrid"] = ensure(request_for("hybrid", SETTINGS, home, records))
    return records


@pytest.fixture(scope="module")
def folder(stores, tmp_path_factory):
    """The hybrid, published as a study does."""
    return publish_hybrid(stores["hybrid"], tmp_path_factory.mktemp("home") / "studies" / "smoke")


def test_the_published_folder_is_the_store_without_its_manifest(stores, folder):
    published = {path.name: path.read_bytes() for path in folder.iterdir()}
    stored = {path.name: path.read_bytes() for path in stores["hybrid"].path.iterdir()}
    assert MANIFEST not in published
    stored.pop(MANIFEST)
    assert published == stored
    (folder / "left.over").write_text("x")
    publish_hybrid(stores["hybrid"], folder.parent)
    assert not (folder / "left.over").exists()


def test_the_loaded_model_gives_the_logits_that_evaluation_scored(stores, folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    windows = load_windows(stores["corpus"], "heldout")
    tokens_BT = torch.from_numpy(windows.tokens_NT[:4].astype("int64"))
    arms = load_arms(stores["replace"].path / "arms")
    backbone = load_backbone(SETTINGS.backbone, {}, seed=SETTINGS.seed)
    expected = Hybrid(backbone, 2, arms["bridge"]).logits(tokens_BT)
    assert torch.equal(model(tokens_BT).logits, expected)
    assert model.config.window_tokens == SETTINGS.corpus.window_tokens


def test_the_tokenizer_puts_the_separator_in_front_and_padding_before_it(stores, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    separator = json.loads((stores["corpus"].path / "corpus.json").read_bytes())["separator"]["id"]
    encoded = tokenizer(["Where?", "A longer text"], padding=True)
    assert encoded["input_ids"][1][0] == separator
    assert encoded["input_ids"][0].count(separator) == 1
    assert encoded["attention_mask"][0][0] == 0
    assert encoded["input_ids"][0][-6:] == list(b"Where?")
    assert tokenizer.decode(encoded["input_ids"][0], skip_special_tokens=True) == "Where?"


def test_texts_are_continued_alike_alone_and_together(folder):
    model, tokenizer = open_hybrid(folder)
    prompts = ["Where should diffusion enter", "A", ""]
    together = continue_texts(model, tokenizer, prompts, max_new_tokens=8)
    assert [continue_texts(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in prompts] == together
    assert all(text.startswith(prompt) for text, prompt in zip(together, prompts, strict=True))
    warm = [continue_texts(model, tokenizer, ["A"], 8, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert warm[0] == warm[1]
    assert warm[0] != warm[2]


def test_text_that_looks_like_the_separator_is_plain_text(folder):
    model, tokenizer = open_hybrid(folder)
    text = f"A{SETTINGS.backbone.separator_token}B"
    assert continue_texts(model, tokenizer, [text], max_new_tokens=1)[0].startswith(text)


def test_a_continuation_beyond_the_trained_positions_is_told_with_its_numbers(folder, capsys):
    model, tokenizer = open_hybrid(folder)
    prompts = ["Where", "Here and there"]  # bytes: 14 tokens and the separator
    trained = SETTINGS.corpus.window_tokens
    assert beyond_training(model, tokenizer, prompts, trained - 14) is None
    assert beyond_training(model, tokenizer, prompts, trained - 13) == (
        f"note: a prompt of 15 tokens and up to {trained - 13} new ones reach position {trained + 1}; the bridge was "
        f"trained on the first {trained} (corpus.window_tokens), and its quality beyond them was not measured; "
        f"max_new_tokens {trained - 14} stays within them"
    )
    assert "stays within" not in beyond_training(model, tokenizer, ["x" * trained], 5)
    assert main(["generate", *prompts, "--model", str(folder), "--max-new-tokens", str(trained)]) == 0
    printed = capsys.readouterr()
    assert sum("the bridge was trained on the first" in line for line in printed.err.splitlines()) == 1
    assert "trained on" not in printed.out


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 is below 1"),
        ({"temperature": -1.0}, "temperature -1.0 is not a number from 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"sampling_steps": 0}, "sampling_steps 0 is outside 1..1000"),
        ({"max_new_tokens": 100_000}, "the model's context holds"),
    ],
)
def test_numbers_out_of_bounds_are_refused(request_of, message, folder):
    model, tokenizer = open_hybrid(folder)
    with pytest.raises(ConfigError, match=message):
        continue_texts(model, tokenizer, ["A"], **request_of)


def test_the_card_holds_the_real_figures_and_licences(stores, folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    replace = json.loads((stores["replace"].path / "replace.json").read_bytes())
    evaluation = json.loads((stores["evaluate"]["eval_wiki"].path / "evaluation.json").read_bytes())
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| layer | 2 of {SETTINGS.backbone.num_layers} |" in card
    for arm in ("teacher", "bridge@1", "ridge"):
        assert f"{evaluation['arms'][arm]['nll']['value']:.2f}" in card
    assert f"{replace['arms']['bridge']['fvu']:.3g}" in card
    assert f"{replace['arms']['bridge']['tokens']:,} tokens" in card
    assert "sampling steps**" in card
    assert "None" not in card
    for source in json.loads((stores["corpus"].path / "corpus.json").read_bytes())["sources"]:
        if sum(source["windows"].values()):
            assert source["licence"] in card


def test_a_merged_copy_takes_tokenizer_and_card_along(folder, tmp_path):
    copy_hybrid(folder, tmp_path / "copy", merged=True)
    given, copied = ((place / "README.md").read_text(encoding="utf-8") for place in (folder, tmp_path / "copy"))
    assert "the backbone is found by its reference" in given
    assert "This folder holds the bridge, the backbone: it loads by itself" in copied
    assert "by its reference" not in copied
    assert copied.partition("## Licences")[2] == given.partition("## Licences")[2] != ""
    before, after = (continue_texts(*open_hybrid(place), ["Where"], 6) for place in (folder, tmp_path / "copy"))
    assert before == after
    assert (tmp_path / "copy" / "backbone" / "model.safetensors").is_file()


def test_a_folder_without_tokenizer_is_a_sentence(folder, tmp_path):
    copy_hybrid(folder, tmp_path / "copy", merged=False)
    for path in (tmp_path / "copy").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ArtifactError, match="the tokenizer in .* is missing or unreadable"):
        open_hybrid(tmp_path / "copy")


def test_an_asset_is_looked_for_in_the_home_of_the_study_then_in_the_default_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DIHAL_HOME", str(tmp_path / "default"))
    published = tmp_path / "other" / "studies" / "name" / "hybrid"
    published.mkdir(parents=True)
    assert homes_near(published) == (tmp_path / "other", tmp_path / "default")
    assert homes_near(tmp_path / "anywhere") == (tmp_path / "default",)
    assert homes_near(published, tmp_path / "given") == (tmp_path / "given",)
    backbone = SETTINGS.backbone.model_copy(update={"source": "asset", "identifier": "model-a"})
    with pytest.raises(
        AssetError, match=r"asset 'model-a', which is not under .*other or .*default; run `dihal setup`"
    ):
        asset_records(backbone, homes_near(published))
    for name, unit in (("model-a-1", "model-a"), ("model-a-b-2", "model-a-b")):
        store = tmp_path / "default" / "assets" / name
        store.mkdir(parents=True)
        (store / MANIFEST).write_text(json.dumps({"key": name, "digest": "d", "unit": unit}))
    found = asset_records(backbone, homes_near(published))["model-a"]
    assert found.path.name == "model-a-1"
