"""Answer lines of the flows that end without a report: sweep alone, replacement alone, evaluation alone."""

from typing import Any

from dihal_core.reporting.formatting import integer, interval_text, number, percent, value_of
from dihal_core.reporting.questions import hybrid_answer, predicted_answer, where_answer
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table


def where_line(score: Json, backbone: Json) -> str:
    """Return the selected layer with its score and selection probability in one line."""
    where = where_answer(score, backbone["num_layers"])
    return (
        f"Where      layer {where['selected_layer']} of {where['num_layers']} of {backbone['name']}; selection "
        f"probability {number(where['selection_probability'], decimals=2)}; S = {interval_text(where['score'])}"
    )


def sweep_lines(score: Json, agreement: Json, backbone: Json) -> list[str]:
    """Return what a sweep alone says: pick, agreement with the bridge loss, controls, rules of thumb."""
    lines = [where_line(score, backbone)]
    predicted = predicted_answer(agreement)
    if predicted is None:
        return [*lines, "Predicted  too few layers were trained to compare score and bridge loss."]
    lines.append(
        f"Predicted  Spearman {interval_text(predicted['spearman'], decimals=2)}, Kendall "
        f"{interval_text(predicted['kendall'], decimals=2)} with the bridge loss over {predicted['layers']} layers; best "
        f"observed layer {predicted['best_observed']}, rank gap {predicted['rank_gap']}"
    )
    controls = ", ".join(
        f"{item['label']} {number(item['spearman'], decimals=2)} ({item['verdict']})" for item in predicted["controls"]
    )
    lines.append(f"Controls   Spearman of {controls or 'none'}")
    rules = ", ".join(
        f"{name} layer {rule['layer']} (loss {number(rule['loss'])})"
        for name, rule in (agreement.get("rules") or {}).items()
        if rule
    )
    return [*lines, f"Rules      {rules}"] if rules else lines


def training_line(replace: Json) -> str:
    """Return unexplained variance and steps of every trained arm at the layer."""
    arms = ", ".join(
        f"{name} {number(arm.get('fvu'))} ({integer(arm.get('steps'))} steps)" for name, arm in replace["arms"].items()
    )
    return f"Trained    at layer {replace['layer']}; unexplained variance of {arms}"


def hybrid_lines(evaluations: dict[str, Json]) -> list[str]:
    """Return one line per evaluation set: teacher, then every arm with PPL and KL."""
    lines = []
    for block in hybrid_answer(evaluations):
        arms = {arm["arm"]: arm for arm in block["arms"]}
        teacher = arms.pop("teacher", {})
        shown = "; ".join(
            f"{name} PPL {interval_text(arm.get('ppl'))}, KL {number(value_of(arm.get('kl')))}"
            for name, arm in arms.items()
        )
        lines.append(
            f"Hybrid     {block['label']}, {integer(block['tokens'])} tokens: teacher PPL "
            f"{number(value_of(teacher.get('ppl')))}; {shown}"
        )
    return lines


STUDIES = (
    Column("study", "study", "text"),
    Column("backbone", "backbone", "text"),
    Column("selected", "selected layer", "layer"),
    Column("layers", "of", "count"),
    Column("score", "score S", "interval"),
    Column("probability", "P(selected)", "share"),
    Column("spearman", "Spearman with loss", "interval", decimals=2),
    Column("best", "best observed", "layer"),
    Column("set", "evaluation set", "text"),
    Column("teacher_ppl", "teacher PPL", "interval"),
    Column("ppl", "hybrid PPL", "interval"),
    Column("kl", "hybrid KL", "interval"),
)


def comparison_table(rows: list[Json]) -> Table:
    """Return studies side by side; `rows` are those of `dihal_core.comparing`."""
    flat: list[dict[str, Any]] = []
    for row in rows:
        sets = row["sets"] or [{}]
        flat += [{**(row if index == 0 else {}), **block} for index, block in enumerate(sets)]
    return Table("studies", "Studies side by side", STUDIES, tuple(flat))


CHOICES = (
    Column("choice", "choice", "text"),
    Column("selected", "selected layer", "layer"),
    Column("probability", "P(selected)", "share"),
    Column("spearman", "Spearman with default", decimals=2),
    Column("rank_of_default", "rank of the default's layer", "count"),
    Column("dump", "hidden states", "text"),
    Column("changes", "changes", "text"),
)


def sensitivity_table(rows: list[Json]) -> Table:
    """Return one row per choice; rows that keep the selected layer of the default are bold."""
    marks = tuple("selected" if row["same"] else "" for row in rows)
    return Table("sensitivity", "Selected layer under other choices", CHOICES, tuple(rows), marks)


def sensitivity_lines(rows: list[Json], backbone: Json) -> list[str]:
    """Return the default's pick and how often other choices keep it."""
    default, others = rows[0], rows[1:]
    lines = [
        f"Default    layer {default['selected']} of {backbone['num_layers']} of {backbone['name']}, probability "
        f"{number(default['probability'], decimals=2)}"
    ]
    if not others:
        return [*lines, "Choices    none was measured"]
    kept = sum(row["same"] for row in others)
    moved = ", ".join(f"{row['choice']} layer {row['selected']}" for row in others if not row["same"])
    lines.append(
        f"Choices    {kept} of {len(others)} ({percent(kept / len(others))}) select it too; {moved or 'none differs'}"
    )
    known = [row for row in others if row["spearman"] is not None]
    if known:
        least = min(known, key=lambda row: row["spearman"])
        lines.append(f"Ranking    least like the default's: {least['choice']}, Spearman {least['spearman']:.2f}")
    return lines
