"""The tables of results: layers, sweep, agreement, evaluation, corpus, gates. Raw values in, `Table` out."""

from collections.abc import Mapping
from typing import Any

from dihal_core.reporting.answer import HEADLINE_LOSS, PARTIALS, set_label
from dihal_core.reporting.palette import arm_label, ordered_arms
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table

PREDICTORS = {
    "raw": "geometry score S (paper)",
    "eps_relative": "S with relative ridge",
    "unit_trace": "S, each layer scaled to unit trace",
    "unit_trace_without_outliers": "S, unit trace, outlier rows dropped",
    "curvature": "curvature alone",
    "monotonicity": "monotonicity alone",
    "minus_effective_rank": "minus effective rank alone",
    "depth": "depth alone (shallower is better)",
    "minus_log_norm": "norm alone (smaller is better)",
    "ridge_r2": "ridge map R\u00b2 from the embedding",
}
LOSSES = {
    "fvu": "fraction of variance unexplained (headline)",
    "paper_bridge_loss": "training loss on validation",
    "relative_mse": "mean squared error / total variance",
    "raw_mse": "mean squared error",
    "kl": "KL(teacher || hybrid)",
    "nll": "negative log-likelihood",
}
RULES = {"early": "Early", "middle": "Middle", "late": "Late", "score": "geometry score"}


def layer_table(score: Json) -> Table:
    """Return one row per layer with all that geometry says about it; layers 0 and L are controls."""
    columns = (
        Column("layer", "layer", "layer"),
        Column("role", "role", "text", "controls are shown, never z-scored, never selected"),
        Column("rank", "rank", "count", "1 = highest score"),
        Column("score", "score S", "interval", "z(curvature) + z(monotonicity) \u2212 z(effective rank)"),
        Column("selection_probability", "P(selected)", "share", "share of document resamples in which S is largest here"),
        Column("curvature", "curvature", "interval", "median 1/(largest local eigenvalue + eps)"),
        Column("monotonicity", "monotonicity", "interval", "median stiffness of sampled pairs"),
        Column("effective_rank", "effective rank", "interval", "trace / largest eigenvalue"),
        Column("log_mean_norm", "log mean norm", decimals=2),
        Column("trace", "trace"),
        Column("outlier_rows", "outlier rows", "count", "rows with norm above a multiple of the median"),
        Column("outlier_trace_share", "their trace share", "share"),
        Column("duplicate_rows", "duplicate rows", "count"),
        Column("top_dimension", "top dimension", "layer"),
        Column("top_dimension_share", "its trace share", "share"),
        Column("max_norm_ratio", "max norm / median"),
        Column("identity_ratio", "identity ratio", help="1 = stiffness holds no directional information", decimals=3),
    )
    selected = score["selected_layer"]
    rows, marks = [], []
    for row in sorted(score["layers"], key=lambda item: item["layer"]):
        rows.append({**row, "role": "candidate" if row["candidate"] else "control"})
        marks.append("selected" if row["layer"] == selected else "" if row["candidate"] else "control")
    return Table("layers", "Geometry of every layer", columns, tuple(rows), tuple(marks))


def variant_table(score: Json) -> Table:
    """Return which layer each variant of the score would select."""
    columns = (Column("variant", "variant", "text"), Column("selected", "selects layer", "layer"))
    rows = [{"variant": _label(name), **block} for name, block in score.get("variants", {}).items()]
    return Table("variants", "Which layer each variant selects", columns, tuple(rows))


def stability_table(score: Json) -> Table:
    """Return rank agreement between subsamples (spread of overlapping draws: stability, not an interval)."""
    names = {
        "large": "large subsamples against their mean",
        "small": "small subsamples against the large mean",
        "large_vs_small": "mean of large against mean of small",
    }
    columns = (
        Column("comparison", "comparison", "text"),
        Column("spearman", "Spearman", "interval", decimals=3),
        Column("kendall", "Kendall", "interval", decimals=3),
    )
    blocks = score.get("stability") or {}
    rows = [{"comparison": names.get(name, name), **(block or {})} for name, block in blocks.items()]
    return Table("stability", "Stability of the ranking", columns, tuple(rows))


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


def sweep_table(sweeps: Mapping[int, Json], gaps: Mapping[int, str] | None = None, selected: int | None = None) -> Table:
    """Return losses per layer; a layer that failed keeps its row, with the reason."""
    shown = (
        ("bridge", "fvu", "bridge FVU"),
        ("ridge", "fvu", "ridge FVU"),
        ("regressor", "fvu", "regressor FVU"),
        ("skip", "fvu", "skip FVU"),
        ("bridge", "fvu_without_outliers", "bridge FVU, no outliers"),
        ("bridge", "kl", "bridge KL"),
        ("ridge", "kl", "ridge KL"),
        ("regressor", "kl", "regressor KL"),
        ("bridge", "nll", "bridge NLL"),
        ("ridge", "nll", "ridge NLL"),
    )
    columns = (
        Column("layer", "layer", "layer"),
        *(Column(f"{arm}_{field}", label) for arm, field, label in shown),
        Column("teacher_nll", "teacher NLL"),
        Column("bridge_tokens", "tokens trained", "count"),
        Column("status", "status", "text"),
    )
    rows, marks = [], []
    gaps = gaps or {}
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
        *(Column(f"regret_{k}", f"regret@{k}", help=f"loss of the best of the top {k}, minus the best") for k in "135"),
    )
    rows = []
    for name, block in agreement["losses"].items():
        regret = {f"regret_{k}": value for k, value in (block.get("regret") or {}).items()}
        p = (block.get("spearman") or {}).get("p")
        rows.append({**block, **regret, "loss": LOSSES.get(name, name), "p": p})
    return Table("agreement", "Does the score predict the loss?", columns, tuple(rows), _marks_first(agreement["losses"]))


def _marks_first(losses: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple("selected" if name == HEADLINE_LOSS else "" for name in losses)


def predictor_table(agreement: Json, loss: str = HEADLINE_LOSS) -> Table:
    """Return every cheap predictor of `loss`, best first."""
    columns = (
        Column("predictor", "predictor", "text"),
        Column("spearman", "Spearman", "interval", decimals=2),
        Column("kendall", "Kendall", "interval", decimals=2),
        Column("selected", "selects layer", "layer"),
        Column("rank_gap", "rank gap", "count"),
    )
    found = (agreement["losses"].get(loss) or {}).get("predictors") or {}
    order = sorted(found, key=lambda name: -_or(found[name].get("spearman"), -2.0))
    rows = [{**found[name], "predictor": _label(name)} for name in order]
    marks = tuple("selected" if name == "raw" else "" for name in order)
    return Table("predictors", f"Predictors of the bridge loss ({LOSSES.get(loss, loss)})", columns, tuple(rows), marks)


def _or(value: Any, default: float) -> float:
    value = value.get("value") if isinstance(value, Mapping) else value
    return default if value is None else float(value)


def _label(name: str) -> str:
    return PREDICTORS.get(name, name)


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
    for name, block in agreement["losses"].items():
        for key, found in (block.get("partial") or {}).items():
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
    return Table("partial", "What the score adds", columns, tuple(rows))


def rule_table(agreement: Json) -> Table:
    """Return the paper's depth rules beside the score."""
    columns = (
        Column("rule", "rule", "text"),
        Column("layer", "layer", "layer"),
        Column("loss", "bridge loss"),
        Column("rank", "observed rank", "count"),
    )
    rules = agreement.get("rules") or {}
    rows = [{**(rules[name] or {}), "rule": RULES.get(name, name)} for name in rules]
    marks = tuple("selected" if name == "score" else "" for name in rules)
    return Table("rules", "Early, Middle, Late and the score", columns, tuple(rows), marks)


def evaluation_table(evaluation: Json) -> Table:
    """Return likelihood and agreement with the teacher for every arm of one set."""
    columns = (
        Column("label", "arm", "text"),
        Column("ppl", "PPL", "interval"),
        Column("kl", "KL to teacher (nats)", "interval"),
        Column("nll", "NLL (nats)", "interval"),
        Column("bits_per_byte", "bits per byte", "interval"),
        Column("word_ppl", "word PPL", "interval"),
        Column("top1", "top-1 agreement", "interval"),
    )
    arms = ordered_arms(list(evaluation["arms"]))
    rows = [{"label": arm_label(arm), **(evaluation["arms"][arm] or {})} for arm in arms]
    marks = tuple("selected" if arm.startswith("bridge") else "control" if arm == "teacher" else "" for arm in arms)
    name = evaluation["set"]
    return Table(f"evaluation_{name}", f"Likelihood on {set_label(name)}", columns, tuple(rows), marks)


def difference_table(evaluation: Json) -> Table:
    """Return paired differences over documents."""
    columns = (
        Column("pair", "paired difference", "text"),
        Column("kl", "KL (nats)", "interval"),
        Column("nll", "NLL (nats)", "interval"),
    )
    rows = [{"pair": pair.replace(" - ", " \u2212 "), **block} for pair, block in evaluation.get("differences", {}).items()]
    name = evaluation["set"]
    return Table(f"differences_{name}", f"Paired differences on {set_label(name)}", columns, tuple(rows))


def corpus_table(corpus: Json) -> Table:
    """Return the source mix."""
    columns = (
        Column("source", "source", "text"),
        Column("origin", "origin", "text"),
        Column("licence", "licence", "text"),
        Column("documents", "documents", "count"),
        Column("train_windows", "train windows", "count"),
        Column("train_tokens", "train tokens", "count"),
        Column("share", "token share", "share"),
        Column("heldout_windows", "held-out windows", "count"),
        Column("rejected", "rejected", "count"),
        Column("shared_13grams", "shared 13-grams", "share", "of held-out text with train"),
    )
    total = sum((item.get("tokens") or {}).get("train") or 0 for item in corpus["sources"])
    shared = (corpus.get("overlap") or {}).get("shared_13gram_fraction") or {}
    rows = [
        {
            **item,
            "train_windows": (item.get("windows") or {}).get("train"),
            "heldout_windows": (item.get("windows") or {}).get("heldout"),
            "train_tokens": (tokens := (item.get("tokens") or {}).get("train")),
            "share": tokens / total if total and tokens is not None else None,
            "rejected": sum((item.get("rejects") or {}).values()),
            "shared_13grams": shared.get(item["source"]) if isinstance(shared, Mapping) else None,
        }
        for item in corpus["sources"]
    ]
    return Table("corpus", "Sources", columns, tuple(rows))


def split_table(corpus: Json) -> Table:
    """Return windows, documents and tokens of every split."""
    columns = (
        Column("split", "split", "text"),
        *(Column(name, name, "count") for name in ("windows", "documents", "tokens")),
    )
    rows = [{"split": name, **block} for name, block in corpus["splits"].items()]
    return Table("splits", "Splits", columns, tuple(rows))


def reject_table(corpus: Json) -> Table:
    """Return how much text was rejected and why, most frequent first."""
    columns = (Column("reason", "reason", "text"), Column("count", "rejected", "count"))
    found = sorted((corpus.get("rejects") or {}).items(), key=lambda item: (-(item[1] or 0), item[0]))
    rows = [{"reason": reason.replace("_", " "), "count": count} for reason, count in found]
    return Table("rejects", "Rejects", columns, tuple(rows))


def gate_table(gates: Json) -> Table:
    """Return what each gate measured and what it had to be."""
    columns = (
        Column("gate", "gate", "text"),
        Column("measured", "measured"),
        Column("required", "required", "text"),
    )
    splice, leak = gates.get("splice") or {}, gates.get("leak") or {}
    layers = len(splice.get("layers") or [])
    rows: list[dict[str, Any]] = [
        {
            "gate": f"splice: largest logit difference over {layers} layers ({splice.get('dtype', '')})",
            "measured": splice.get("max"),
            "required": "0, or rounding of the dtype",
        }
    ]
    for item in leak.get("bridges") or []:
        weights = item.get("weights")
        name = f"leak: change before the cut, {item['kind']}{f' ({weights} weights)' if weights else ''}"
        rows.append({"gate": name, "measured": item.get("max_change"), "required": "exactly 0"})
    control = leak.get("control")
    if control:
        rows.append(
            {
                "gate": "leak control: a module that does look ahead",
                "measured": control.get("max_change"),
                "required": "above 0: caught" if control.get("caught") else "above 0: NOT caught",
            }
        )
    return Table("gates", "Gates", columns, tuple(rows))
