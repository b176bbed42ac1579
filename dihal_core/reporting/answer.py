"""The three questions of a study answered in words and numbers; a control that wins is named first.

Where should diffusion enter, did the geometry predict it, and how good is the hybrid. All comparisons are ours:
the paper does not set its score beside depth, norm or a ridge map.
"""

from typing import Any

from dihal_core.reporting.formatting import (
    DASH,
    bounds_of,
    integer,
    interval_text,
    joined,
    layer_ranges,
    number,
    value_of,
)
from dihal_core.reporting.palette import arm_label, ordered_arms
from dihal_core.reporting.results import Json, StudyResults

HEADLINE_LOSS = "fvu"
CONTROLS = {"depth": "depth alone", "minus_log_norm": "norm alone", "ridge_r2": "the ridge map"}
PARTIALS = {"given_depth": "depth", "given_log_norm": "norm", "given_ridge": "the ridge map"}
SET_LABELS = {"eval_wiki": "wiki-like pages", "heldout": "held-out windows"}
PAPER_PICKS = (("Llama-3.1-8B-Instruct", 3, 32), ("Qwen3-8B", 2, 36))
"""The paper's selected layers: backbone, layer, number of blocks."""
LIKELY_MASS = 0.95
TIE = 0.005
"""Rank correlations closer than this are called equal."""


def set_label(name: str) -> str:
    """Return the name of an evaluation set in words."""
    return SET_LABELS.get(name, name)


def where_answer(score: Json, num_layers: int) -> Json:
    """Return the selected layer with its probability, the smallest set of layers that holds 95 % of it, and S."""
    selected = int(score["selected_layer"])
    probabilities = {int(layer): float(p) for layer, p in score["selection_probability"].items() if p}
    likely: list[int] = []
    mass = 0.0
    for layer in sorted(probabilities, key=lambda item: (-probabilities[item], item)):
        if mass >= LIKELY_MASS - 1e-9:
            break
        likely.append(layer)
        mass += probabilities[layer]
    rows = {int(row["layer"]): row for row in score["layers"]}
    ranked = sorted(
        (layer for layer in rows if value_of(rows[layer]["score"]) is not None and layer != selected),
        key=lambda layer: -(value_of(rows[layer]["score"]) or 0.0),
    )
    return {
        "selected_layer": selected,
        "num_layers": num_layers,
        "relative_depth": selected / num_layers,
        "selection_probability": probabilities.get(selected, 0.0),
        "likely_layers": sorted(likely),
        "score": rows[selected]["score"] if selected in rows else None,
        "runner_up": {"layer": ranked[0], "score": rows[ranked[0]]["score"]} if ranked else None,
    }


def predicted_answer(agreement: Json, loss: str = HEADLINE_LOSS) -> Json | None:
    """Return rank agreement of score and bridge loss beside the controls, or None where it could not be computed."""
    block = agreement["losses"].get(loss)
    if block is None or value_of(block.get("spearman")) is None:
        return None
    ours = value_of(block["spearman"]) or 0.0
    controls = []
    for name, label in CONTROLS.items():
        found = (block.get("predictors") or {}).get(name) or {}
        theirs = value_of(found.get("spearman"))
        if theirs is not None:
            verdict = "better" if theirs > ours + TIE else "as good" if theirs >= ours - TIE else "worse"
            controls.append({"name": name, "label": label, "spearman": theirs, "verdict": verdict})
    partial = []
    for name, label in PARTIALS.items():
        found = (block.get("partial") or {}).get(name)
        bounds = bounds_of(found)
        if bounds is not None:
            partial.append(
                {"name": name, "label": label, "value": found, "covers_zero": bounds[0] <= 0.0 <= bounds[1]}
            )
    return {
        "loss": loss,
        "spearman": block["spearman"],
        "kendall": block.get("kendall"),
        "best_predicted": block.get("best_predicted"),
        "best_observed": block.get("best_observed"),
        "rank_gap": block.get("rank_gap"),
        "regret": block.get("regret"),
        "layers": len([p for p in agreement["points"] if p.get(loss) is not None and p.get("score") is not None]),
        "missing_layers": agreement.get("missing_layers", []),
        "controls": controls,
        "partial": partial,
    }


def hybrid_answer(evaluations: dict[str, Json]) -> list[Json]:
    """Return, per evaluation set, the arms in reading order and the paired comparisons with their verdict."""
    answers = []
    for name, block in evaluations.items():
        arms = [{"arm": arm, "label": arm_label(arm), **block["arms"][arm]} for arm in ordered_arms(list(block["arms"]))]
        comparisons = [_comparison(pair, found) for pair, found in (block.get("differences") or {}).items()]
        answers.append(
            {
                "set": name,
                "label": set_label(name),
                "layer": block.get("layer"),
                "tokens": block.get("tokens"),
                "windows": block.get("windows"),
                "documents": block.get("documents"),
                "arms": [{k: v for k, v in arm.items() if k != "per_document"} for arm in arms],
                "comparisons": [item for item in comparisons if item is not None],
            }
        )
    return answers


def _comparison(pair: str, found: Json) -> Json | None:
    left, _, right = pair.partition(" - ")
    metric = "kl" if bounds_of(found.get("kl")) else "nll"
    bounds = bounds_of(found.get(metric))
    if bounds is None:
        return None
    verdict = "worse" if bounds[0] > 0 else "better" if bounds[1] < 0 else "not distinguishable"
    return {"left": left, "right": right, "metric": metric, "difference": found[metric], "verdict": verdict}


# ---------------------------------------------------------------------------------- in words
def control_sentences(predicted: Json | None) -> list[Json]:
    """Return sentences on whether depth, norm or a ridge map predicts as well; winning controls come first."""
    if predicted is None:
        return [{"kind": "caution", "text": "Too few layers were trained to say whether the geometry predicts the loss."}]
    ours = number(value_of(predicted["spearman"]), decimals=2)
    sentences = []
    for verdict, phrase in (("better", "better than"), ("as good", "as well as")):
        found = [item for item in predicted["controls"] if item["verdict"] == verdict]
        if found:
            names = joined([item["label"] for item in found])
            values = joined([number(item["spearman"], decimals=2) for item in found])
            verb = "orders" if len(found) == 1 else "order"
            text = f"{names[0].upper()}{names[1:]} {verb} the layers {phrase} the geometry score"
            sentences.append({"kind": "control", "text": f"{text} (Spearman {values} against {ours})."})
    if not sentences and predicted["controls"]:
        values = joined([f"{item['label']} ({number(item['spearman'], decimals=2)})" for item in predicted["controls"]])
        sentences.append(
            {"kind": "support", "text": f"The geometry score (Spearman {ours}) orders the layers better than {values}."}
        )
    nothing = [item["label"] for item in predicted["partial"] if item["covers_zero"]]
    if nothing:
        text = f"The score adds nothing beyond {_either(nothing)} that this study can show"
        many = "these" if len(nothing) > 1 else "it"
        sentences.append({"kind": "control", "text": f"{text}: its partial correlation given {many} covers 0."})
    return sentences


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def quality_sentences(hybrid: list[Json]) -> list[Json]:
    """Return one sentence per set on the bridge against ridge map and regressor, with intervals."""
    sentences = []
    for block in hybrid:
        for item in block["comparisons"]:
            if item["right"] == "teacher":
                continue
            names = arm_label(item["left"]).partition(",")[0], arm_label(item["right"])
            measure = "KL" if item["metric"] == "kl" else "NLL"
            value = interval_text(item["difference"])
            text = {
                "worse": f"the {names[1]} beats the {names[0]}",
                "better": f"the {names[0]} beats the {names[1]}",
                "not distinguishable": f"the {names[0]} and the {names[1]} are not distinguishable",
            }[item["verdict"]]
            kind = {"worse": "control", "better": "support"}.get(item["verdict"], "caution")
            where = block["label"]
            tokens = f"{integer(block['tokens'])} tokens"
            sentences.append(
                {"kind": kind, "text": f"On {where}, {text}: {measure} difference {value} nats per token ({tokens})."}
            )
    return sentences


def sweep_sentence(sweeps: dict[int, Json]) -> Json | None:
    """Return at how many layers the ridge map leaves less variance unexplained than the trained bridge."""
    pairs = []
    for block in sweeps.values():
        bridge, ridge = ((block["arms"].get(arm) or {}).get("fvu") for arm in ("bridge", "ridge"))
        if bridge is not None and ridge is not None:
            pairs.append(ridge <= bridge)
    if not pairs:
        return None
    wins = sum(pairs)
    kind = "control" if 2 * wins >= len(pairs) else "support"
    text = f"At the sweep's budget the ridge map is at least as good as the trained bridge at {wins} of {len(pairs)} layers"
    return {"kind": kind, "text": f"{text} (fraction of variance unexplained)."}


def build_answer(results: StudyResults) -> Json:
    """Return the three answers, the sentences that head the report, and the five lines."""
    layers = results.settings["backbone"]["num_layers"]
    where = where_answer(results.score, layers) if results.score else None
    predicted = predicted_answer(results.agreement) if results.agreement else None
    hybrid = hybrid_answer(results.evaluations)
    quality = quality_sentences(hybrid)
    sentences = [*control_sentences(predicted), *quality]
    sweep = sweep_sentence(results.sweeps)
    if sweep is not None:
        sentences.append(sweep)
    if results.gaps:
        sentences.append(
            {
                "kind": "caution",
                "text": f"Layer{'s' if len(results.gaps) > 1 else ''} {layer_ranges(list(results.gaps))} "
                "of the sweep failed or did not run and are left out of every comparison.",
            }
        )
    order = {"control": 0, "caution": 1, "support": 2}
    sentences.sort(key=lambda item: order[item["kind"]])
    return {
        "where": where,
        "predicted": predicted,
        "hybrid": hybrid,
        "sentences": sentences,
        "lines": _lines(results, where, predicted, hybrid),
    }


def answer_lines(results: StudyResults) -> list[str]:
    """Return the answer as exactly five lines of plain text, the last thing a study prints."""
    return build_answer(results)["lines"]


def _lines(results: StudyResults, where: Json | None, predicted: Json | None, hybrid: list[Json]) -> list[str]:
    lines = [_where_line(results, where), _predicted_line(predicted, len(results.candidates)), _control_line(predicted)]
    lines.extend(_hybrid_line(block) for block in hybrid[:2])
    if not hybrid:
        lines.append("Hybrid     not evaluated.")
    if len(lines) < 5:
        lines.append(_caution_line(results))
    return [" ".join(line.split("\n")) for line in lines]


def _where_line(results: StudyResults, where: Json | None) -> str:
    name = results.settings["backbone"]["name"]
    if where is None:
        return f"Where      no layer of {name} was selected."
    return (
        f"Where      layer {where['selected_layer']} of {where['num_layers']} of {name}; selection probability "
        f"{number(where['selection_probability'], decimals=2)}, 95 % of it on layers {layer_ranges(where['likely_layers'])}; "
        f"S = {interval_text(where['score'])}"
    )


def _predicted_line(predicted: Json | None, candidates: int) -> str:
    if predicted is None:
        return "Predicted  too few layers were trained to compare score and bridge loss."
    return (
        f"Predicted  Spearman {interval_text(predicted['spearman'], decimals=2)}, Kendall "
        f"{interval_text(predicted['kendall'], decimals=2)} with the bridge loss over {predicted['layers']} of {candidates} "
        f"layers; best observed layer {_plain(predicted['best_observed'])}, rank gap {_plain(predicted['rank_gap'])}"
    )


def _control_line(predicted: Json | None) -> str:
    if predicted is None or not predicted["controls"]:
        return "Controls   not available."
    parts = [
        f"{item['label']} {number(item['spearman'], decimals=2)} ({item['verdict']})" for item in predicted["controls"]
    ]
    nothing = [item["label"] for item in predicted["partial"] if item["covers_zero"]]
    tail = f"; nothing shown beyond {_either(nothing)}" if nothing else ""
    return f"Controls   Spearman of {', '.join(parts)}; the score {number(value_of(predicted['spearman']), decimals=2)}{tail}"


def _hybrid_line(block: Json) -> str:
    arms = {arm["arm"]: arm for arm in block["arms"]}
    shown = []
    bridge = next((name for name in arms if name.startswith("bridge")), None)
    for name, label in ((bridge, "bridge"), ("ridge", "ridge"), ("regressor", "regressor"), ("skip", "skip")):
        if name is not None and name in arms:
            kl = value_of(arms[name].get("kl"))
            shown.append(f"{label} PPL {_short(arms[name].get('ppl'), name == bridge)}, KL {number(kl)}")
    teacher = f"teacher PPL {number(value_of(arms['teacher'].get('ppl')))}" if "teacher" in arms else "teacher " + DASH
    return f"Hybrid     {block['label']}, {integer(block['tokens'])} tokens: {teacher}; {'; '.join(shown)}"


def _short(value: Any, with_bounds: bool) -> str:
    return interval_text(value) if with_bounds else number(value_of(value))


def _caution_line(results: StudyResults) -> str:
    backbone = results.settings["backbone"]
    weights = f"weights quantised to {backbone['quantisation']}, " if backbone.get("quantisation") else ""
    missing = layer_ranges(list(results.gaps)) or "none"
    return f"Caution    {weights}one seed ({results.settings['seed']}); layers missing from the sweep: {missing}"


def _plain(value: Any) -> str:
    return DASH if value is None else str(value)
