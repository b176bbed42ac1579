"""Tables of stage `cost`: quality against sampler steps, cost per token of the hybrid against what it replaced."""

from dihal_core.reporting.formatting import integer
from dihal_core.reporting.palette import arm_label
from dihal_core.reporting.questions import set_label
from dihal_core.reporting.results import Json, StudyResults
from dihal_core.reporting.tables import Column, Table


def seconds_of(results: StudyResults) -> Json:
    """Return the measured seconds per token by part; they stand in the stage's record, not in its result."""
    found = next((record.counts.get("seconds_per_token") for record in results.records if record.stage == "cost"), None)
    return found or {}


def steps_table(cost: Json) -> Table:
    """Return KL and PPL at every number of sampler steps on the stated subset."""
    columns = (
        Column("label", "sampler steps", "text"),
        Column("kl", "KL to teacher (nats)", "interval", decimals=3),
        Column("kl_difference", "KL minus the first row's", "interval", decimals=4),
        Column("ppl", "PPL", "interval"),
        Column("top1", "top-1 agreement", "interval", decimals=3),
    )
    rows = [{"label": steps, **row} for steps, row in cost["curve"].items()]
    rows.append({"label": "teacher", **cost["teacher"]})
    subset = f"{cost['windows']} windows of {cost['documents']} documents of {set_label(cost['set'])}"
    caption = f"Quality against sampler steps ({subset}, {integer(cost['tokens'])} tokens)"
    return Table("steps", caption, columns, tuple(rows), ("selected",))


def cost_table(cost: Json, seconds: Json) -> Table:
    """Return FLOPs (counted) and seconds (measured, median with smallest and largest round) per token."""
    columns = (
        Column("label", "part", "text"),
        Column("mflops", "MFLOP/token, counted", digits=3),
        Column("flops_ratio", "/ backbone", digits=3),
        Column("ms", "ms/token, measured", "interval", digits=3, help="median, smallest and largest round"),
        Column("ratio", "/ backbone, within rounds", "interval", decimals=3),
        Column("replaced_ratio", "/ replaced blocks, within rounds", "interval", decimals=2),
    )
    flops = cost["flops_per_token"]
    order = ["backbone", "replaced blocks", "kept blocks", "head"]
    order += [part for part in flops if part not in order]
    rows = [
        {
            "label": part_label(part, cost["layer"]),
            "mflops": flops[part] / 1e6,
            "flops_ratio": flops[part] / flops["backbone"],
            "ms": _interval(seconds.get(part), 1e3),
            "ratio": _interval(seconds.get(f"{part} / backbone")),
            "replaced_ratio": _interval(seconds.get(f"{part} / replaced blocks")),
        }
        for part in order
    ]
    marks = tuple("selected" if part.startswith("hybrid@") else "" for part in order)
    timed = cost["timed"]
    caption = (
        f"Cost per token at layer {cost['layer']} (whole windows, {timed['windows']} x {timed['positions']} tokens, "
        f"{timed['rounds']} rounds)"
    )
    return Table("cost", caption, columns, tuple(rows), marks)


def part_label(part: str, layer: int) -> str:
    """Return a part in words."""
    kind, _, steps = part.partition("@")
    if kind == "hybrid":
        return f"hybrid: bridge, kept blocks, head; {steps} step{'' if steps == '1' else 's'}"
    if kind == "bridge":
        return arm_label(part)
    return {
        "backbone": "whole backbone",
        "replaced blocks": f"replaced: embedding and block{'s 1 to' if layer > 1 else ''} {layer}",
        "kept blocks": "kept blocks and final norm",
        "head": "LM head",
    }[part]


def _interval(found: Json | None, factor: float = 1.0) -> Json | None:
    if found is None:
        return None
    return {"value": factor * found["median"], "low": factor * found["low"], "high": factor * found["high"]}
