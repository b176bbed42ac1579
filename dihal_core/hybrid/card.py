"""The model card of a hybrid: what it is, what it was measured at, beside teacher and controls, and its licences."""

import json
from collections.abc import Mapping
from typing import Any

from dihal_core.asset_list import ASSETS
from dihal_core.hybrid.origin_words import design, licence_names, licence_rows, origin_rows, whereabouts
from dihal_core.reporting.formatting import DASH, integer, interval_text, number, percent, value_of

Json = Mapping[str, Any]

ARM_NAMES = {
    "teacher": "teacher (the backbone itself)",
    "regressor": "regressor, same size, no diffusion",
    "ridge": "ridge regression, no training",
    "ridge-1": "ridge regression on the current token, no training",
    "ridge-all": "ridge regression on all windows, no training",
    "table": "mean state of each token, no context",
    "skip": "embedding put into the layer",
}
TEXT_NAMES = {"eval_wiki": "held-out wiki pages", "heldout": "held-out documents of the training sources"}


def model_card(
    settings: Any,
    replace: Json,
    corpus: Json,
    evaluations: Mapping[str, Json],
    digest: str,
    structure: Json | None = None,
) -> str:
    """Return the README of an exported hybrid: YAML head, then Markdown.

    Parameters
    ----------
    settings
        View of the study's settings: backbone, bridge, seed.
    replace
        `replace.json`: layer, losses and budget per arm.
    corpus
        `corpus.json`: sources with licences.
    evaluations
        `evaluation.json` by set.
    digest
        SHA-256 of the backbone's weights.
    structure
        `DiHALConfig.bridge_structure`: the digest of a frozen VAE.
    """
    backbone, bridge, layer = settings.backbone, settings.bridge, int(replace["layer"])
    asset = ASSETS.get(backbone.identifier) if backbone.source == "asset" else None
    lines = [
        *_head(backbone, asset, bridge),
        f"# {backbone.name} with blocks 1{DASH}{layer} replaced by a diffusion bridge"
        if layer > 1
        else f"# {backbone.name} with block 1 replaced by a diffusion bridge",
        "",
        f"The state of layer {layer} of {backbone.num_layers} is made from the embeddings by a causal diffusion bridge "
        f"(`{bridge.kind}`); the {backbone.num_layers - layer} blocks after it are the backbone's own, "
        f"unchanged. Written by a DiHAL Studio study (method: arXiv 2605.14368; {design(bridge)}). Research artefact: "
        "it approximates its teacher and is not expected to be better or faster.",
        "",
        "| | |",
        "|---|---|",
        f"| backbone | {backbone.name} ({backbone.source} `{backbone.identifier}`"
        + (f", revision `{backbone.revision}`" if backbone.revision else "")
        + ") |",
        f"| quantisation of its weights | {backbone.quantisation or 'none'}, run in {backbone.dtype} |",
        f"| digest of its weights | `{digest}` |",
        f"| layer | {layer} of {backbone.num_layers} |",
        *origin_rows(bridge, structure),
        *_training(replace),
        f"| seed | {settings.seed} |",
        "",
        "## Figures",
        "",
    ]
    for name, evaluation in evaluations.items():
        lines += [*_figures(name, evaluation), ""]
    lines += [*_use(backbone, bridge), "", *_licences(backbone, asset, bridge, corpus), ""]
    return "\n".join(lines)


def _head(backbone: Any, asset: Any, bridge: Any) -> list[str]:
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [dihal, diffusion-bridge]"]
    if backbone.source == "hub":
        head.append(f"base_model: {backbone.identifier}")
    further = licence_names(bridge)
    if asset is not None and asset.licence == "Apache-2.0" and not further:
        head.append("license: apache-2.0")
    elif asset is not None or backbone.source != "random" or further:
        theirs = () if backbone.source == "random" else (_licence(asset, "that of the backbone"),)
        head += ["license: other", f"license_name: {json.dumps('; '.join((*theirs, *further)))}"]
    return [*head, "---", ""]


def _licence(asset: Any, otherwise: str) -> str:
    return asset.licence if asset is not None else otherwise


def _training(replace: Json) -> list[str]:
    bridge = replace["arms"]["bridge"]
    others = [
        f"{name} {number(replace['arms'][name]['fvu'])}"
        for name in ("regressor", "ridge", "ridge-all", "table", "skip")
        if name in replace["arms"]
    ]
    return [
        f"| bridge | {integer(bridge['parameters'])} trained parameters, {integer(bridge['steps'])} steps, "
        f"{integer(bridge['tokens'])} tokens |",
        f"| bridge loss (fraction of variance unexplained, validation) | {number(bridge['fvu'])}; {', '.join(others)} |",
    ]


def _figures(name: str, evaluation: Json) -> list[str]:
    rows = []
    for arm, block in evaluation["arms"].items():
        steps = arm.partition("@")[2]
        label = f"**bridge, {steps} sampling step{'s' if steps != '1' else ''}**" if steps else ARM_NAMES.get(arm, arm)
        rows.append(
            f"| {label} | {interval_text(block['ppl'])} | {interval_text(block['nll'])} | {interval_text(block['kl'])} | "
            f"{percent(value_of(block['top1']), 1)} | {interval_text(block['bits_per_byte'])} |"
        )
    conventions = evaluation["conventions"]
    return [
        f"### {TEXT_NAMES.get(name, name)}: {integer(evaluation['tokens'])} scored tokens of "
        f"{integer(evaluation['documents'])} documents",
        "",
        "| | PPL | NLL (nats) | KL to teacher | same top token | bits per byte |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Brackets: intervals over documents. Prefix: {conventions['prefix']}. Window: {conventions['window']}. "
        f"Scored: {conventions['scored_from']}.",
    ]


def _use(backbone: Any, bridge: Any) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "import dihal_core  # tells transformers about hybrids",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        'prompts = tokenizer(["The capital of France is"], return_tensors="pt", padding=True)',
        "print(tokenizer.batch_decode(model.generate(**prompts, max_new_tokens=40), skip_special_tokens=True)[0])",
        "```",
        "",
        f"Every input starts with `{backbone.separator_token}`; the tokenizer beside this card puts it there. Pad on the "
        "left. `model.generate(..., sampling_steps=4)` takes more steps of the bridge; its noise is fixed by "
        f"`config.noise_seed` and the position. {whereabouts(bridge, merged=False)}",
    ]


def merged_card(card: str, bridge: Any) -> str:
    """Return the card of a copy that carries its backbone, from the card that `model_card` wrote."""
    return card.replace(whereabouts(bridge, merged=False), whereabouts(bridge, merged=True))


def _licences(backbone: Any, asset: Any, bridge: Any, corpus: Json) -> list[str]:
    own = (
        asset.licence
        if asset is not None
        else "that of its publisher"
        if backbone.source != "random"
        else "none needed"
    )
    rows = [f"- backbone {backbone.name}: {own}", *licence_rows(bridge)]
    for source in corpus["sources"]:
        windows = sum(source["windows"].values())
        if windows:
            rows.append(
                f"- text `{source['source']}` ({source['origin']}, {integer(windows)} windows): {source['licence']}"
            )
    return ["## Licences", "", *rows]
