"""Tables of the score's test: sweep, losses, predictors, partial correlations, rules. Raw values in, `Table` out."""

from collections.abc import Iterable, Mapping
from typing import Any

from dihal_core.reporting.formatting import percent
from dihal_core.reporting.palette import ordered_arms
from dihal_core.reporting.questions import HEADLINE_LOSS, PARTIALS
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table
from dihal_core.reporting.tables_locate import label_of, ordered

LOSSES = {
    "paper_bridge_loss": "weighted training objective on validation (the paper's bridge loss)",
    "fvu": "fraction of variance unexplained (headline, ours)",
    "relative_mse": "mean squared error / total variance",
    "raw_mse": "mean squared error",
    "kl": "KL(teacher || hybrid)",
    "nll": "negative log-likelihood",
}
PAPER_LOSS = "paper_bridge_loss"
SHORT = {
    "paper_bridge_loss": "the paper's loss",
    "fvu": "FVU",
    "relative_mse": "relative MSE",
    "raw_mse": "raw MSE",
    "kl": "KL",
    "nll": "NLL",
}
RULES = {"early": "Early", "middle": "Middle", "late": "Late", "score": "geometry score"}
ARM_FIELDS = (
    "fvu",
    "fvu_without_outliers",
    "relative_mse",
    "raw_mse",
    "paper_bridge_loss",
    "kl",
    "nll",
    "parameters",
    "steps",
    "tokens",
    "flops",
)


def sweep_table(
    sweeps: Mapping[int, Json], gaps: Mapping[int, str] | None = None, selected: int | None = None
) -> Table:
    """Return losses per layer; a layer that failed keeps its row, with the reason."""
    shown = (
        ("bridge", "fvu", "bridge FVU"),
        ("ridge", "fvu", "ridge FVU"),
        *((("ridge-1", "fvu", "1-token ridge FVU"),) if any("ridge-1" in b["arms"] for b in sweeps.values()) else ()),
        ("regressor", "fvu", "regressor FVU"),
        ("table", "fvu", "per-token table FVU"),
        ("skip", "fvu", "skip FVU"),
        ("bridge", "fvu_without_outliers", "bridge FVU, no outliers"),
        ("bridge", "kl", "bridge KL"),
        ("ridge", "kl", "ridge KL"),
        ("regressor", "kl", "regressor KL"),
        ("table", "kl", "per-token table KL"),
        ("bridge", "nll", "bridge NLL"),
        ("ridge", "nll", "ridge NLL"),
    )
    gaps = gaps or {}
    columns = (
        Column("layer", "layer", "layer"),
        *((Column("status", "status", "text"),) if gaps else ()),
        *(Column(f"{arm}_{field}", label) for arm, field, label in shown),
        Column("teacher_nll", "teacher NLL"),
        Column("bridge_tokens", "tokens trained", "count"),
    )
    rows, marks = [], []
    for layer in sorted({*sweeps, *gaps}):
        block = sweeps.get(layer)
        rows.append({"layer": layer, "status": gaps.get(layer, "trained"), **(_flat(block) if block else {})})
        marks.append("missing" if block is None else "selected" if layer == selected else "")
    return Table("sweep", "Validation losses per candidate layer", columns, tuple(rows), tuple(marks))


def sweep_long_table(sweeps: Mapping[int, Json]) -> Table:
    """Return every field of every arm and layer, one row each: the complete sweep as CSV."""
    columns = (
        Column("layer", "layer", "layer"),
        Column("arm", "arm", "text"),
        *(Column(name, name.replace("_", " ")) for name in ARM_FIELDS),
    )
    rows = [
        {"layer": layer, "arm": arm, **(block["arms"][arm] or {})}
        for layer, block in sorted(sweeps.items())
        for arm in ordered_arms(list(block["arms"]))
    ]
    return Table("sweep_all", "All losses of all arms", columns, tuple(rows))


def _flat(block: Json) -> Json:
    flat = {f"{arm}_{field}": value for arm, fields in block["arms"].items() for field, value in (fields or {}).items()}
    return {**flat, "teacher_nll": (block.get("teacher") or {}).get("nll")}


def loss_table(agreement: Json) -> Table:
    """Return agreement of the score with each loss."""
    columns = (
        Column("loss", "validation loss", "text"),
        Column("spearman", "Spearman", "interval", decimals=2),
        Column("p", "p", digits=2),
        Column("kendall", "Kendall", "interval", decimals=2),
        Column("best_predicted", "best predicted", "layer"),
        Column("best_observed", "best observed", "layer"),
        Column("rank_gap", "rank gap", "count", "observed rank of the selected layer minus 1"),
        *(
            Column(
                f"regret_{k}",
                _regret_label(agreement, k),
                help=f"loss of the best of the top {k}, minus the best; none where they hold every layer with a loss",
            )
            for k in "135"
        ),
    )
    rows = []
    order = ordered(agreement["losses"], LOSSES)
    for name in order:
        block = agreement["losses"][name]
        regret = {f"regret_{k}": value for k, value in (block.get("regret") or {}).items()}
        p = (block.get("spearman") or {}).get("p")
        rows.append({**block, **regret, "loss": LOSSES.get(name, name), "p": p})
    marks = tuple("selected" if name == HEADLINE_LOSS else "" for name in order)
    return Table("agreement", "Does the score predict the loss?", columns, tuple(rows), marks)


def _regret_label(agreement: Json, top: str) -> str:
    """Return what training only the `top` layers by score would have saved beside the name of its regret."""
    saved = (agreement.get("compute_saved") or {}).get(top)
    notes = [] if saved is None else [f"{percent(saved)} of the sweep saved"]
    headline = agreement["losses"].get(HEADLINE_LOSS) or {}
    if ((headline.get("regret_layers") or {}).get(top) or {}).get("all_with_loss"):
        notes.append("all trained layers: no test")
    return f"regret@{top} ({'; '.join(notes)})" if notes else f"regret@{top}"


def predictor_table(agreement: Json, loss: str = HEADLINE_LOSS) -> Table:
    """Return every cheap predictor of `loss`, best first, beside its correlation with the paper's loss."""
    columns = (
        Column("predictor", "predictor", "text"),
        Column("paper_spearman", "Spearman, the paper's loss", "interval", decimals=2),
        Column("spearman", "Spearman", "interval", decimals=2),
        Column("kendall", "Kendall", "interval", decimals=2),
        Column("selected", "selects layer", "layer"),
        Column("rank_gap", "rank gap", "count"),
    )
    found = (agreement["losses"].get(loss) or {}).get("predictors") or {}
    theirs = (agreement["losses"].get(PAPER_LOSS) or {}).get("predictors") or {}
    order = sorted(found, key=lambda name: -_or(found[name].get("spearman"), -2.0))
    rows = [
        {**found[name], "predictor": label_of(name), "paper_spearman": (theirs.get(name) or {}).get("spearman")}
        for name in order
    ]
    marks = tuple("selected" if name == "raw" else "" for name in order)
    return Table("predictors", f"Predictors of the bridge loss ({loss.upper()})", columns, tuple(rows), marks)


def _or(value: Any, default: float) -> float:
    value = value.get("value") if isinstance(value, Mapping) else value
    return default if value is None else float(value)


def partial_table(agreement: Json) -> Table:
    """Return partial rank correlations of score and loss, given depth, norm or the ridge map."""
    columns = (
        Column("loss", "validation loss", "text"),
        Column("given", "given", "text"),
        Column("partial", "partial Spearman", "interval", decimals=2),
        Column("p", "p", digits=2),
        Column("reading", "reading", "text"),
    )
    rows = []
    for name in ordered(agreement["losses"], LOSSES):
        partial = agreement["losses"][name].get("partial") or {}
        for key in ordered(partial, PARTIALS):
            found = partial[key]
            low, high = (found or {}).get("low"), (found or {}).get("high")
            reading = None if low is None or high is None else "covers 0" if low <= 0 <= high else "clear of 0"
            rows.append(
                {
                    "loss": LOSSES.get(name, name),
                    "given": PARTIALS.get(key, key),
                    "partial": found,
                    "p": (found or {}).get("p"),
                    "reading": reading,
                }
            )
    known = any(row["reading"] is not None for row in rows)
    return Table("partial", "What the score adds", columns, tuple(rows) if known else ())


def rule_table(agreement: Json) -> Table:
    """Return the paper's depth rules beside the score, with the rank of each layer by every loss."""
    points = agreement.get("points") or []
    names = ordered(agreement.get("losses"), LOSSES)
    columns = (
        Column("rule", "rule", "text"),
        Column("layer", "layer", "layer"),
        Column("loss", f"bridge loss ({HEADLINE_LOSS.upper()})"),
        *(Column(f"rank_{name}", f"rank by {SHORT.get(name, name)}", "count", "1 = lowest loss") for name in names),
    )
    rules = agreement.get("rules") or {}
    order = ordered(rules, RULES)
    rows = [
        {
            **(rules[name] or {}),
            "rule": RULES.get(name, name),
            **{f"rank_{loss}": _rank(points, loss, (rules[name] or {}).get("layer")) for loss in names},
        }
        for name in order
    ]
    marks = tuple("selected" if name == "score" else "" for name in order)
    return Table("rules", "Early, Middle, Late and the score", columns, tuple(rows), marks)


def _rank(points: Iterable[Json], loss: str, layer: int | None) -> int | None:
    """Return 1 + the number of layers with a lower loss; None where the layer has none."""
    known = {point["layer"]: point[loss] for point in points if point.get(loss) is not None}
    return 1 + sum(value < known[layer] for value in known.values()) if layer in known else None
