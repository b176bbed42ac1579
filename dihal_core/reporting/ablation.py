"""The ablation stage: the comparison of bridge architectures as Markdown, JSON and CSV (paper appendix D.1).

The files hold training seconds, which differ from run to run, so the digest of this stage does not reproduce; no
other stage depends on it. Every number beside the seconds does.
"""

import statistics
from typing import Any

from dihal_core.contract import StageContext
from dihal_core.evaluation.ablation import compare_arms
from dihal_core.reporting.formatting import bounds_of, integer, interval_text, number, value_of
from dihal_core.reporting.questions import set_label
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table
from dihal_core.store import StageRecord, read_json

RESULT = "ablate.json"


def build_ablation(context: StageContext) -> dict[str, Any]:
    """Compare all arms that have a result; write `ablation.md`, `ablation.json` and `ablation.csv`.

    Raises
    ------
    ArtifactError
        If a result is unreadable, or arms were scored on different documents.
    """
    settings, records = context.settings, list(context.inputs["ablate"].values())
    results = [read_json(record, RESULT) for record in records]
    comparison = compare_arms(
        results, settings.evaluation.bootstrap_replicates, settings.evaluation.confidence, settings.seed
    )
    seconds = training_seconds(records, results)
    part = settings.corpus.evaluation_part
    table, lines = ablation_table(comparison, seconds), answer_lines(comparison, part)
    name = str(context.values.get("study_name") or settings.profile)
    context.store.write_bytes("ablation.csv", table.csv().encode())
    context.store.write_json(
        "ablation.json",
        {
            "format": 1,
            "study": name,
            "settings": {
                "profile": settings.profile,
                "seed": settings.seed,
                "corpus": {"evaluation_part": part},
                **{
                    name: getattr(settings, name).model_dump(mode="json") for name in ("backbone", "bridge", "ablation")
                },
            },
            "backbone_identity": dict(context.values.get("backbone_identity") or {}),
            "answer": lines,
            "comparison": comparison,
            "training_seconds": seconds,
            "records": [{"unit": record.unit, "key": record.key, "digest": record.digest} for record in records],
        },
    )
    page = markdown_page(settings.backbone.name, name, settings.seed, comparison, table, lines, part)
    context.store.write_bytes("ablation.md", page.encode())
    return {"answer": lines, "rows": len(table.rows), "tokens": comparison["tokens"]}


def training_seconds(records: list[StageRecord], results: list[Json]) -> dict[str, Json]:
    """Return median wall and CPU seconds of the training per arm; arms that take no steps are left out."""
    clocks: dict[str, list[Json]] = {}
    for record, result in zip(records, results, strict=True):
        if record.counts.get("training"):
            clocks.setdefault(result["arm"], []).append(record.counts["training"])
    return {
        arm: {name: statistics.median(clock[name] for clock in found) for name in found[0]}
        for arm, found in clocks.items()
    }


def row_label(row: Json) -> str:
    """Return the arm in words with its sampler steps."""
    steps = row["sampling_steps"]
    return row["label"] if steps is None else f"{row['label']}, {steps} step{'' if steps == 1 else 's'}"


def _over_seeds(found: Json | None, decimals: int) -> str | None:
    if found is None:
        return None
    middle = number(found["median"], decimals=decimals)
    if len(found["values"]) == 1:
        return middle
    return f"{middle} ({number(found['low'], decimals=decimals)} to {number(found['high'], decimals=decimals)})"


def ablation_table(comparison: Json, seconds: dict[str, Json]) -> Table:
    """Return the comparison, a row per arm and number of sampler steps; the arm compared with is set off."""
    against = next(row_label(row) for row in comparison["rows"] if row["row"] == comparison["reference"])
    columns = (
        Column("label", "arm", "text"),
        Column("seeds", "seeds", "count"),
        Column("steps", "steps", "count"),
        Column("tokens", "tokens", "count"),
        Column("ridge_states", "states its ridge was fitted on", "count"),
        Column("parameters", "parameters", "count"),
        Column("wall_seconds", "training, wall s", digits=3),
        Column("cpu_seconds", "training, CPU s", digits=3),
        Column("forward_mflops", "forward MFLOP/token", digits=3),
        Column("fvu_text", "FVU (over seeds)", "text"),
        Column("kl", "KL (nats)", "interval", decimals=3),
        Column("kl_text", "KL over seeds", "text"),
        Column("nll", "NLL (nats)", "interval", decimals=3),
        Column("ppl", "PPL", "interval", digits=4),
        Column("ppl_text", "PPL over seeds", "text"),
        Column("kl_to_ridge", "KL / ridge's", "interval", decimals=3),
        Column("kl_to_ridge_all", "KL / that of the ridge on all windows", "interval", decimals=3),
        Column("ppl_to_teacher", "PPL / teacher's", "interval", decimals=3),
        Column("kl_difference", f"KL minus {against}'s", "interval", decimals=3),
        Column("nll_difference", f"NLL minus {against}'s", "interval", decimals=3),
        Column("below", f"seeds with a KL below {against}", "text"),
    )
    rows, marks = [], []
    for row in comparison["rows"]:
        reference = row["row"] == comparison["reference"]
        rows.append(
            {
                **row,
                "label": row_label(row),
                "forward_mflops": row["forward_flops"] / 1e6,
                "fvu_text": _over_seeds(row["fvu"], 4),
                "kl_text": _over_seeds(row["kl_seeds"], 4),
                "ppl_text": _over_seeds(row["ppl_seeds"], 2),
                "below": None if reference else f"{row['seeds_below']} of {row['seeds_compared']}",
                **seconds.get(row["arm"], {}),
            }
        )
        marks.append("selected" if reference else "")
    return Table("ablation", f"Arms at layer {comparison['layer']}", columns, tuple(rows), tuple(marks))


PARTS = {
    "development": "the development half of the evaluation documents, which is for choosing: figures to quote come from "
    "`corpus.evaluation_part=test`",
    "test": "the test half of the evaluation documents, which is for quoting: whoever chooses by these figures has used "
    "the half up, so choose with `corpus.evaluation_part=development` (the default of `dihal ablate`)",
}
"""Which half was scored, and why that half."""


def answer_lines(comparison: Json, part: str) -> list[str]:
    """Return the answer; whether a control wins stands first. `part` is the half of the documents that was scored."""
    rows = {row["row"]: row for row in comparison["rows"]}
    reference = rows[comparison["reference"]]
    best = min(rows.values(), key=lambda row: row["kl"]["value"])
    lines = [
        f"Controls   {_verdict(reference, list(rows.values()))}",
        f"Lowest KL  {row_label(best)}: KL {interval_text(best['kl'], decimals=3)}, PPL {interval_text(best['ppl'], 4)}; "
        f"teacher PPL {interval_text(comparison['teacher']['ppl'], 4)}",
    ]
    for row in rows.values():
        if row is not reference and not row["control"]:
            difference = interval_text(row["kl_difference"], decimals=3)
            lines.append(f"Against    {row_label(row)}: KL minus that of the {row_label(reference)} {difference}")
    budgets = {(row["steps"], row["tokens"]) for row in rows.values() if row["steps"]}
    spent = " and ".join(f"{integer(steps)} steps, {integer(tokens)} tokens" for steps, tokens in sorted(budgets))
    seeds = sorted({row["seeds"] for row in rows.values() if row["steps"]})
    lines.append(
        f"Budget     {spent or 'no arm was trained'}; {' or '.join(map(str, seeds)) or 'no'} seed"
        f"{'' if seeds == [1] else 's'}; scored "
        f"{integer(comparison['tokens'])} tokens of {integer(comparison['documents'])} documents "
        f"({set_label(comparison['set'])}, {part} half), layer {comparison['layer']}"
    )
    return lines


def _verdict(reference: Json, rows: list[Json]) -> str:
    controls = [row for row in rows if row["control"] and row is not reference]
    if reference["control"]:
        return "no diffusion bridge was compared"
    if not controls:
        return "no control was compared"
    closest = min(controls, key=lambda row: row["kl"]["value"])
    difference, bounds = closest["kl_difference"], bounds_of(closest["kl_difference"])
    ours, theirs = (f"KL {number(row['kl']['value'], decimals=3)}" for row in (reference, closest))
    counted = f"below it in {closest['seeds_below']} of {closest['seeds_compared']} seeds"
    bridge, control = row_label(reference), row_label(closest)
    told = f"difference {interval_text(difference, decimals=3)}, {counted}"
    if reference["seeds"] == 1:
        told += "; one training each, so what another seed changes is not in the interval"
    if bounds is not None and bounds[1] < 0:
        return f"A CONTROL WINS: {control} ({theirs}) beats the {bridge} ({ours}); {told}"
    if bounds is not None and bounds[0] > 0:
        return f"the {bridge} ({ours}) beats every control; the closest, {control} ({theirs}): {told}"
    lower = "lower" if (value_of(difference) or 0.0) < 0 else "not lower"
    return f"NOT DECIDED: the KL of the {control} ({theirs}) is {lower} than that of the {bridge} ({ours}); {told}"


def markdown_page(
    backbone: str, study: str, seed: int, comparison: Json, table: Table, lines: list[str], part: str
) -> str:
    """Return the page: answer, table, how to read it."""
    level = f"{comparison['confidence']:.0%}"
    answer = "\n".join(f"- {' '.join(line.split())}" for line in lines)
    conventions = "\n".join(f"- {name.replace('_', ' ')}: {text}" for name, text in comparison["conventions"].items())
    return (
        f"# Bridge architectures at layer {comparison['layer']} of {backbone}\n\nStudy `{study}`, seed {seed}. "
        f"Comparison of architectures at small scale, as in appendix D.1 of arXiv 2605.14368; the arms are ours.\n\n"
        f"{answer}\n\n## Arms\n\n{table.markdown()}\n## How to read this\n\n"
        "- All trained arms of a seed see the same windows in the same order, the same times, steps and tokens; a seed "
        "changes initial weights, order and noise. Arms without gradient steps have one result.\n"
        f"- Brackets are {level} intervals from resampling documents, of the mean over seeds; all rows share the resamples, "
        "so ratios and differences are paired. They do not cover what another seed changes: that is the column over seeds "
        "(median, smallest to largest) and the last one.\n"
        "- Ridge maps, alone or under a bridge, are fitted in closed form on the first `bridge.ridge_windows` training "
        "windows, so a ratio to them flatters a bridge that was trained on more. Those named `all windows` are fitted on "
        "every window that training 0 of a bridge depends on, the per-token table on every training window: compare the column of states "
        "with that of tokens.\n"
        f"- Scored: {PARTS[part]}.\n"
        "- FVU is of one sampler step, on training documents kept out of training. Parameters are those that are trained, "
        "or fitted in closed form; the frozen ridge base of the trained arms is not among them.\n"
        "- Forward FLOPs are counted from the operators that run for one window, ridge base included. Seconds are of this "
        "machine and whatever else it did; a resumed training is scaled to all of its steps.\n\n"
        f"## Conventions of the likelihoods\n\n{conventions}\n"
    )
