"""The answers in words; a control that wins is named first."""

from dihal_core.geometry.flags import BIAS_SHARE, bias_in_errors
from dihal_core.reporting.formatting import (
    integer,
    interval_text,
    joined,
    layer_ranges,
    number,
    value_of,
)
from dihal_core.reporting.palette import arm_kind, arm_label
from dihal_core.reporting.results import Json

SWEEP_CONTROLS = {
    "ridge": "the ridge map",
    "regressor": "the same network without diffusion",
    "table": "the per-token table",
}


def _said(kind: str, about: str, text: str) -> Json:
    """Return one sentence: kind is control (a control wins), caution or support; about names the question."""
    return {"kind": kind, "about": about, "text": text}


def control_sentences(predicted: Json | None) -> list[Json]:
    """Return sentences on whether depth, norm or a ridge map predicts as well; winning controls come first."""
    if predicted is None:
        text = "Too few layers were trained to say whether the geometry predicts the loss."
        return [_said("caution", "predicted", text)]
    ours = number(value_of(predicted["spearman"]), decimals=2)
    sentences = []
    for verdict, phrase in (("better", "better than"), ("as good", "as well as")):
        found = [item for item in predicted["controls"] if item["verdict"] == verdict]
        if found:
            names = joined([item["label"] for item in found])
            values = joined([number(item["spearman"], decimals=2) for item in found])
            verb = "orders" if len(found) == 1 else "order"
            text = f"{names[0].upper()}{names[1:]} {verb} the layers {phrase} the geometry score"
            sentences.append(_said("control", "predicted", f"{text} (Spearman {values} against {ours})."))
    if not sentences and predicted["controls"]:
        values = joined([f"{item['label']} ({number(item['spearman'], decimals=2)})" for item in predicted["controls"]])
        text = f"The geometry score (Spearman {ours}) orders the layers better than {values}."
        sentences.append(_said("support", "predicted", text))
    nothing = [item["label"] for item in predicted["partial"] if item["covers_zero"]]
    if nothing:
        text = f"The score adds nothing beyond {either(nothing)} that this study can show"
        many = "these" if len(nothing) > 1 else "it"
        sentences.append(_said("control", "predicted", f"{text}: its partial correlation given {many} covers 0."))
    against = [item for item in predicted["partial"] if item["value"]["high"] < 0]
    for item in against:
        text = f"Given {item['label']} the score points the wrong way: partial correlation"
        sentences.append(_said("control", "predicted", f"{text} {interval_text(item['value'], decimals=2)}."))
    return sentences


def either(words: list[str]) -> str:
    """Return `a`, `a or b`, or `a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _arm_phrase(arm: str) -> str:
    kind = arm_kind(arm)
    return {"bridge": "diffusion bridge", "regressor": "regressor without diffusion"}.get(kind, arm_label(kind))


def _negated(interval: Json) -> Json:
    return {"value": -interval["value"], "low": -interval["high"], "high": -interval["low"]}


def quality_sentences(hybrid: list[Json]) -> list[Json]:
    """Return a sentence per set on the bridge against ridge map and regressor, with intervals.

    The bridge is the one with the fewest sampler steps, fixed beforehand and not the best of several.
    """
    sentences = []
    for block in hybrid:
        primary = next((arm["arm"] for arm in block["arms"] if arm_kind(arm["arm"]) == "bridge"), None)
        for item in block["comparisons"]:
            if item["left"] != primary or item["right"] not in ("ridge", "ridge-1", "ridge-all", "regressor", "table"):
                continue
            if item["right"] == "table" and item["verdict"] == "better":
                continue  # a control without context: worth a sentence only where it is not beaten
            left, right = _arm_phrase(item["left"]), _arm_phrase(item["right"])
            measure = "KL" if item["metric"] == "kl" else "NLL"
            text = {
                "worse": f"the {right} beats the {left}",
                "better": f"the {left} beats the {right}",
                "not distinguishable": f"the {left} and the {right} are not distinguishable",
            }[item["verdict"]]
            amount = {
                "worse": f"{measure} of the bridge is higher by {interval_text(item['difference'])}",
                "better": f"{measure} of the bridge is lower by {interval_text(_negated(item['difference']))}",
                "not distinguishable": f"{measure} difference {interval_text(item['difference'])}",
            }[item["verdict"]]
            kind = {"worse": "control", "better": "support"}.get(item["verdict"], "caution")
            where = block["label"]
            tokens = f"{integer(block['tokens'])} tokens"
            sentence = f"On {where}, {text}: {amount} nats per token ({tokens})."
            sentences.append({**_said(kind, "hybrid", sentence), "set": block["set"]})
    return sentences


def where_sentence(where: Json | None) -> list[Json]:
    """Return cautions: another layer has the largest S in more document resamples; resamples of S are biased."""
    if where is None:
        return []
    sentences: list[Json] = []
    share = bias_in_errors(where["score"] or {})
    if share is not None and abs(share) > BIAS_SHARE:
        text = (
            f"Resampling documents {'raises' if share > 0 else 'lowers'} S of layer {where['selected_layer']} by "
            f"{number(abs(where['score']['bias']), 2)} on average, {number(abs(share), decimals=1)} of its standard errors: "
            "with so few documents z-scores do not follow the proxies linearly, and the interval, centred on S, is rough."
        )
        sentences.append(_said("caution", "where", text))
    if where["most_probable"] in (None, where["selected_layer"]):
        return sentences
    text = (
        f"Layer {where['selected_layer']} has the largest mean score, but layer {where['most_probable']} wins more often "
        f"when documents are resampled ({number(where['most_probable_share'], decimals=2)} against "
        f"{number(where['selection_probability'], decimals=2)}): the selection is not settled."
    )
    return [*sentences, _said("caution", "where", text)]


def sweep_sentence(sweeps: dict[int, Json]) -> Json | None:
    """Return at how many layers each control leaves no more variance unexplained than the trained bridge."""
    wins: dict[str, list[bool]] = {name: [] for name in SWEEP_CONTROLS}
    for block in sweeps.values():
        bridge = (block["arms"].get("bridge") or {}).get("fvu")
        for name, found in wins.items():
            control = (block["arms"].get(name) or {}).get("fvu")
            if bridge is not None and control is not None:
                found.append(control <= bridge)
    if not wins["ridge"]:
        return None
    kind = "control" if any(found and 2 * sum(found) >= len(found) for found in wins.values()) else "support"
    text = "At the sweep's budget the ridge map is at least as good as the trained bridge"
    text += f" at {sum(wins['ridge'])} of {len(wins['ridge'])} layers"
    for name, phrase in list(SWEEP_CONTROLS.items())[1:]:
        if any(wins[name]):
            text += f", {phrase} at {sum(wins[name])} of {len(wins[name])}"
    return _said(kind, "sweep", f"{text} (fraction of variance unexplained).")


def gap_sentence(layers: list[int]) -> Json:
    """Return which layers have no sweep result."""
    many = len(layers) > 1
    text = f"Layer{'s' if many else ''} {layer_ranges(layers)} of the sweep failed or did not run; "
    return _said("caution", "sweep", f"{text}every comparison leaves {'them' if many else 'it'} out.")


def lead_sentences(sentences: list[Json]) -> list[Json]:
    """Return the first lines of the report: cautions on the selection; controls that win, else what supports the method.

    At most three sentences on prediction, one each on the hybrid (headline set) and the sweep, and one on a control that
    cannot be told from the hybrid's bridge.
    """
    where = [item for item in sentences if item["about"] == "where"]
    for kind in ("control", "support", "caution"):
        chosen = [item for item in sentences if item["kind"] == kind and item["about"] != "where"]
        if chosen:
            about = {name: [i for i in chosen if i["about"] == name] for name in ("predicted", "hybrid", "sweep")}
            ties = [item for item in sentences if item["kind"] == "caution" and item["about"] == "hybrid"]
            hybrid = about["hybrid"][:1] + [item for item in ties[:1] if item not in about["hybrid"][:1]]
            return where + about["predicted"][:3] + hybrid + about["sweep"][:1]
    return where
