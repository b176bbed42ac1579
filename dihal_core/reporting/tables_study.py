"""Tables of everything around Locate: corpus, gates, training at the chosen layer, evaluation."""

from collections.abc import Mapping
from typing import Any

from dihal_core.reporting.palette import arm_label, ordered_arms
from dihal_core.reporting.questions import set_label
from dihal_core.reporting.results import Json, StudyResults
from dihal_core.reporting.tables import Column, Table
from dihal_core.reporting.tables_locate import ordered

SPLITS = ("train", "heldout", "eval_wiki")


def training_table(replace: Json) -> Table:
    """Return size, budget and validation loss of every arm at the chosen layer."""
    columns = (
        Column("label", "arm", "text"),
        Column("fvu", "validation FVU"),
        Column("parameters", "parameters", "count"),
        Column("steps", "steps", "count"),
        Column("tokens", "tokens", "count"),
        Column("flops", "training FLOPs", digits=2),
    )
    arms = ordered_arms(list(replace["arms"]))
    rows = [{"label": arm_label(arm), **(replace["arms"][arm] or {})} for arm in arms]
    marks = tuple("selected" if arm.startswith("bridge") else "" for arm in arms)
    return Table("training", f"Arms trained at layer {replace['layer']}", columns, tuple(rows), marks)


def vae_rows(results: StudyResults) -> list[Json]:
    """Return what the frozen autoencoder loses at every layer that has a bridge with one."""
    rows = [
        {"where": f"sweep, layer {layer}", **block["vae"]} for layer, block in results.sweeps.items() if "vae" in block
    ]
    replace = results.replace or {}
    if "vae" in replace:
        rows.append({"where": f"full training, layer {replace['layer']}", **replace["vae"]})
    return rows


def vae_table(results: StudyResults) -> Table:
    """Return the distortion of the frozen autoencoder alone, layer by layer."""
    columns = (
        Column("where", "bridge", "text"),
        Column("state_fvu", "hidden state FVU through the VAE"),
        Column("projection_fvu", "without the VAE", help="what the projection alone cannot hold"),
        Column("untrained_state_fvu", "before training"),
        Column("image_fvu", "image FVU"),
        Column("states", "states", "count"),
    )
    caption = "What the frozen VAE loses: decode(encode(state)), share of variance; no denoising is involved"
    return Table("vae", caption, columns, tuple(vae_rows(results)))


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
    found = evaluation.get("differences") or {}
    rows = [{"pair": " \u2212 ".join(map(arm_label, pair.split(" - "))), **(found[pair] or {})} for pair in found]
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
    rows = [{"split": name, **corpus["splits"][name]} for name in ordered(corpus["splits"], SPLITS)]
    return Table("splits", "Splits", columns, tuple(rows))


def reject_table(corpus: Json) -> Table:
    """Return how much text was rejected and why, most frequent first."""
    columns = (Column("reason", "reason", "text"), Column("count", "rejected", "count"))
    found = sorted((corpus.get("rejects") or {}).items(), key=lambda item: (-(item[1] or 0), item[0]))
    rows = [{"reason": reason.replace("_", " "), "count": count} for reason, count in found]
    return Table("rejects", "Rejects", columns, tuple(rows))


def gate_table(gates: Json, trained: Json | None = None) -> Table:
    """Return what each gate measured and what it had to be; `trained` is the leak gate of the trained arms."""
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
    if leak.get("backbone"):
        name = "leak: change before the cut, backbone itself"
        rows.append({"gate": name, "measured": leak["backbone"].get("max_change"), "required": "exactly 0"})
    for arm, change in ((trained or {}).get("max_change") or {}).items():
        name = f"leak: change before the cut, {arm_label(arm)} (trained weights)"
        rows.append({"gate": name, "measured": change, "required": "exactly 0"})
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
