"""What was done, beside what the paper says: the protocol with the paper's values, and every setting with its origin."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from dihal_core.config import StudySettings
from dihal_core.config.targets import explain_targets
from dihal_core.reporting.formatting import DASH, integer
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table

SILENT = "not stated"
SAME, SMALLER, OTHER, OURS = "as in the paper", "smaller than the paper", "differs from the paper", "ours"


def _count(label: str, mine: int | float, paper: int, unit: str) -> Json:
    status = SAME if mine == paper else SMALLER if mine < paper else OTHER
    return {"item": label, "study": f"{integer(mine)} {unit}", "paper": f"{integer(paper)} {unit}", "status": status}


def _text(label: str, mine: str, paper: str, status: str) -> Json:
    return {"item": label, "study": mine, "paper": paper, "status": status}


def _draws(label: str, count: int, size: int, paper: tuple[int, int]) -> Json:
    status = SAME if (count, size) == paper else SMALLER if count * size < paper[0] * paper[1] else OTHER
    return _text(
        label, f"{count} \u00d7 {integer(size)} rows", f"{paper[0]} \u00d7 {integer(paper[1])} examples", status
    )


def _epochs(training: Json, windows: float) -> str:
    cap = training.get("max_steps")
    passes = f"{training['epochs']:g} epoch{'' if training['epochs'] == 1 else 's'}"
    real = min(training["epochs"], (cap or 0) * training["batch_sequences"] / windows)
    text = f"{passes}, at most {integer(cap or 0)} steps of {training['batch_sequences']} windows"
    return f"{text}: {real:.2g} epochs" if cap else passes


def _training(label: str, training: Json, windows: float, paper: float) -> Json:
    same = training["epochs"] == paper and training.get("max_steps") is None
    status = SAME if same else SMALLER if training.get("max_steps") or training["epochs"] < paper else OTHER
    return _text(label, _epochs(training, windows), f"{paper:g} epoch{'' if paper == 1 else 's'}", status)


def _bridge(bridge: Json) -> str:
    kinds = {
        "mlp": "token-wise diffusion denoiser on a causal context, frozen ridge base",
        "unet": "UNet latent denoiser",
    }
    return kinds.get(bridge["kind"]) or str(bridge["kind"])


def _example(activations: Json) -> str:
    if activations["token_policy"] == "random":
        return f"one token state, {activations['positions_per_sequence']} per window"
    return {"last": "the last token state of a window", "mean": "the mean state of a window"}[
        activations["token_policy"]
    ]


def _ridge(geometry: Json) -> str:
    if geometry["ridge"] == "relative":
        return f"{geometry['eps_relative']:g} x total variance / dimensions"
    return f"{geometry['eps']:g}"


def _fitted(settings: Json) -> str:
    """Say which windows the ridge maps saw, beside the windows there are for a bridge."""
    most, replace = settings["bridge"]["ridge_windows"], settings["replace"]
    trained = {
        "the sweep's": settings["sweep"]["num_sequences"] * (1 - settings["sweep"]["validation_fraction"]),
        "the final training's": replace["num_sequences"] * (1 - replace["validation_fraction"]),
    }
    parts = [
        f"{'all' if most >= n else f'the first {integer(most)}'} of {name} {integer(int(n))}"
        for name, n in trained.items()
    ]
    text = f"{', '.join(parts)} training windows"
    return (
        f"{text}; `all windows`: on these and every window the final training visits" if replace["ridge_all"] else text
    )


def _targets(settings: Json) -> str:
    return explain_targets(StudySettings.model_validate(settings)).removeprefix("Sweep targets are ").rstrip(".")


def protocol_table(settings: Json) -> Table:
    """Return each step of the protocol: this study, the paper, and whether they agree."""
    corpus, activations, geometry = settings["corpus"], settings["activations"], settings["geometry"]
    sweep, replace, bridge = settings["sweep"], settings["replace"], settings["bridge"]
    score, backbone = settings["score"], settings["backbone"]
    first, last = score["first_layer"], score["last_layer"] or backbone["num_layers"] - 1
    split = sweep["validation_fraction"]
    weights = f", weights quantised to {backbone['quantisation']}" if backbone.get("quantisation") else ""
    dolma = corpus["kind"] == "dolma"
    held = "held-out Dolma v1.7" if dolma else "held-out windows of the same sources"
    published = corpus.get("evaluation") == "wikitext103"
    wiki = "no wiki set" if not corpus["num_eval_wiki"] else "WikiText-103" if published else "wiki-like pages"
    part = f"{corpus['evaluation_part']} half of the documents"
    rows = [
        _text(
            "backbone", f"{backbone['name']}{weights}", "Llama-3.1-8B-Instruct; Qwen3-8B",
            SAME if backbone.get("reference_layer") and backbone["source"] == "hub" and not weights else OTHER,
        ),
        _text("text", "Dolma v1.7" if dolma else f"{corpus['kind']} corpus", "Dolma v1.7", SAME if dolma else OTHER),
        _count("hidden states collected from", activations["num_sequences"], 300_000, "sequences"),
        _text(
            "an example is", f"{_example(activations)}, first {activations['skip_positions']} positions left out",
            SILENT, OURS,
        ),
        _text("window", f"{corpus['window_tokens']} tokens with a separator in front", SILENT, OURS),
        _draws("proxies from", geometry["large_count"], geometry["large_size"], (100, 3000)),
        _draws("stability from additional draws", geometry["small_count"], geometry["small_size"], (30, 500)),
        _text("neighbours k, ridge eps", f"k = {geometry['k']}, eps = {_ridge(geometry)}", SILENT, OURS),
        _text("score", "z(curvature) + z(monotonicity) \u2212 z(effective rank)", "the same, never fitted", SAME),
        _text("candidate layers", f"{first}{DASH}{last} of {backbone['num_layers']}", SILENT, OURS),
        _text("intervals", f"{geometry['bootstrap_replicates']} resamples of documents", SILENT, OURS),
        _count("sweep trained on", sweep["num_sequences"], 150_000, "sequences"),
        _text("sweep split", f"{1 - split:.0%} train, {split:.0%} validation", "9:1", SAME if split == 0.1 else OTHER),
        _text("sweep targets", _targets(settings), SILENT, OURS),
        _training("sweep training", sweep["training"], sweep["num_sequences"] * (1 - split), 1),
        _text("bridge", _bridge(bridge), "UNet in the style of Stable Diffusion v1.5, frozen VAE",
              SAME if bridge["kind"] == "unet" else OTHER),
        _count("final training on", replace["num_sequences"], 300_000, "sequences"),
        _training("final training", replace["training"], replace["num_sequences"], 4),
        _text("evaluated on", f"{wiki}; {held}; {part}", "WikiText-103; held-out Dolma v1.7",
              SAME if dolma and published and corpus["num_eval_wiki"] else OTHER),
        _text("ridge maps fitted on", _fitted(settings), SILENT, OURS),
        _text("controls", "ridge map, deterministic regressor, skip; depth, norm", "single proxies, Early/Middle/Late", OURS),
    ]  # fmt: skip
    labels = {"item": "step", "study": "this study", "paper": "paper", "status": "reading"}
    columns = tuple(Column(key, label, "text") for key, label in labels.items())
    return Table("protocol", "Protocol", columns, tuple(rows))


def _origin(description: str) -> str:
    """Read who states a setting from its description: the convention of `dihal_core.config`."""
    lowered = description.lower()
    words = set("".join(c if c.isalpha() else " " for c in lowered).split())
    return "ours" if "ours" in words else "paper" if "paper" in words else ""


def _leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


def settings_table(settings: Json) -> Table:
    """Return every setting of the study with who states it and what it means."""
    columns = (
        Column("setting", "setting", "text"),
        Column("value", "value", "text"),
        Column("origin", "stated by", "text"),
        Column("meaning", "meaning", "text"),
    )
    rows = []
    for path, value, description in _leaves(StudySettings.model_validate(settings)):
        if path == "description":
            continue
        shown = None if value in (None, {}) else value if isinstance(value, str) else json.dumps(value)
        rows.append({"setting": path, "value": shown, "origin": _origin(description), "meaning": description})
    return Table("settings", "All settings", columns, tuple(rows))
