"""The answer of a study: three questions in numbers, the sentences that head the report, five lines for the terminal."""

from typing import Any

from dihal_core.reporting.formatting import (
    DASH,
    integer,
    interval_text,
    layer_ranges,
    number,
    value_of,
)
from dihal_core.reporting.questions import (
    hybrid_answer,
    predicted_answer,
    where_answer,
)
from dihal_core.reporting.results import Json, StudyResults
from dihal_core.reporting.sentences import (
    control_sentences,
    either,
    gap_sentence,
    quality_sentences,
    sweep_sentence,
    where_sentence,
)


def build_answer(results: StudyResults) -> Json:
    """Return the three answers, the sentences that head the report, and the five lines."""
    layers = results.settings["backbone"]["num_layers"]
    where = where_answer(results.score, layers) if results.score else None
    predicted = predicted_answer(results.agreement) if results.agreement else None
    hybrid = hybrid_answer(results.evaluations)
    quality = quality_sentences(hybrid)
    sentences = [*control_sentences(predicted), *where_sentence(where), *quality]
    sweep = sweep_sentence(results.sweeps)
    if sweep is not None:
        sentences.append(sweep)
    if results.gaps:
        sentences.append(gap_sentence(list(results.gaps)))
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
    spread = f", 95 % of it on layers {layer_ranges(where['likely_layers'])}" if where["likely_layers"] else ""
    return (
        f"Where      layer {where['selected_layer']} of {where['num_layers']} of {name}; selection probability "
        f"{number(where['selection_probability'], decimals=2)}{spread}; S = {interval_text(where['score'])}"
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
    tail = f"; nothing shown beyond {either(nothing)}" if nothing else ""
    against = [item["label"] for item in predicted["partial"] if item["value"]["high"] < 0]
    tail += f"; given {either(against)} it points the wrong way" if against else ""
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
    trainings = results.settings["sweep"]["seeds"]
    seeds = "one seed" if trainings == 1 else f"{trainings} trainings per layer in the sweep, all else from one seed"
    return f"Caution    {weights}{seeds} ({results.settings['seed']}); layers missing from the sweep: {missing}"


def _plain(value: Any) -> str:
    return DASH if value is None else str(value)
