"""The three questions of a study answered in numbers: where, was it predicted, how good is the hybrid.

All comparisons with depth, norm and the ridge map are ours: the paper does not set its score beside them.
"""

from dihal_core.reporting.formatting import bounds_of, value_of
from dihal_core.reporting.palette import arm_label, ordered_arms
from dihal_core.reporting.results import Json

HEADLINE_LOSS = "fvu"
CONTROLS = {"depth": "depth alone", "minus_log_norm": "norm alone", "ridge_r2": "the ridge fit"}
PARTIALS = {"given_depth": "depth", "given_log_norm": "norm", "given_ridge": "the ridge fit"}
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
    for layer in sorted(probabilities, key=lambda item: (-probabilities[item], item != selected, item)):
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
        "selection_probability": probabilities.get(selected, 0.0) if probabilities else None,
        "likely_layers": sorted(likely),
        "most_probable": likely[0] if likely else None,
        "most_probable_share": probabilities[likely[0]] if likely else None,
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
            partial.append({"name": name, "label": label, "value": found, "covers_zero": bounds[0] <= 0.0 <= bounds[1]})
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
        arms = [
            {"arm": arm, "label": arm_label(arm), **(block["arms"][arm] or {})}
            for arm in ordered_arms(list(block["arms"]))
        ]
        comparisons = [_comparison(pair, found or {}) for pair, found in (block.get("differences") or {}).items()]
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
