"""What the report says: tables, sentences and limits, gathered with the pictures before any HTML is written."""

from collections.abc import Sequence
from typing import Any

from dihal_core.reporting import tables_agreement as agreed
from dihal_core.reporting import tables_cost as costs
from dihal_core.reporting import tables_locate as locate
from dihal_core.reporting import tables_study as study
from dihal_core.reporting.formatting import layer_ranges, number, value_of
from dihal_core.reporting.ledger import code_of, ledger_table, store_table, versions_of
from dihal_core.reporting.pictures import Picture
from dihal_core.reporting.protocol import SMALLER, protocol_table, settings_table
from dihal_core.reporting.questions import PAPER_PICKS, set_label
from dihal_core.reporting.results import Json, StudyResults
from dihal_core.reporting.sentences import lead_sentences
from dihal_core.reporting.tables import Table
from dihal_core.reporting.tables_seeds import seed_tables, seeds_of

SECTIONS = (
    ("findings", "Further findings"),
    ("protocol", "Protocol"),
    ("corpus", "Corpus"),
    ("gates", "Gates"),
    ("geometry", "Geometry"),
    ("sweep", "Sweep"),
    ("agreement", "Agreement"),
    ("seeds", "Seeds"),
    ("hybrid", "Hybrid"),
    ("ledger", "Ledger"),
    ("reading", "How to read this"),
    ("limits", "Limits"),
    ("provenance", "Provenance"),
)


def tables_of(results: StudyResults) -> dict[str, Table]:
    """Return every table that the results allow, by name; each also becomes a CSV file."""
    found = [
        protocol_table(results.settings),
        settings_table(results.settings),
        ledger_table(results),
        store_table(results),
    ]
    if results.corpus is not None:
        found += [make(results.corpus) for make in (study.corpus_table, study.split_table, study.reject_table)]
    if results.gates is not None:
        trained = next((block.get("leak") for block in results.evaluations.values()), None)
        found.append(study.gate_table(results.gates, trained))
    selected = None
    if results.score is not None:
        selected = int(results.score["selected_layer"])
        found += [make(results.score) for make in (locate.layer_table, locate.variant_table, locate.stability_table)]
        found.append(locate.comparator_table(results.score, *_swept_ridge(results)))
    if results.sweeps or results.gaps:
        found += [agreed.sweep_table(results.sweeps, results.gaps, selected), agreed.sweep_long_table(results.sweeps)]
    if study.vae_rows(results):
        found.append(study.vae_table(results))
    if results.agreement is not None:
        makers = (agreed.loss_table, agreed.predictor_table, agreed.rule_table, agreed.partial_table)
        found += [make(results.agreement) for make in makers]
        found += seed_tables(results.agreement)
    if results.replace is not None:
        found.append(study.training_table(results.replace))
    if results.cost is not None:
        found += [costs.steps_table(results.cost), costs.cost_table(results.cost, costs.seconds_of(results))]
    for block in results.evaluations.values():
        found += [study.evaluation_table(block), study.difference_table(block)]
    return {table.name: table for table in found}


def _swept_ridge(results: StudyResults) -> tuple[dict[int, float | None], str]:
    """Return R squared of the sweep's ridge map on the validation windows by layer, and what it sees."""
    fvu = {layer: ((block["arms"].get("ridge") or {}).get("fvu")) for layer, block in results.sweeps.items()}
    tokens = results.settings["bridge"]["ridge_tokens"]
    seen = f"{tokens} token{'' if tokens == 1 else 's'}, validation windows of the sweep"
    return {layer: None if value is None else 1.0 - value for layer, value in fvu.items()}, seen


def limits_of(results: StudyResults, predicted: Json | None) -> list[str]:
    """Return what a reader must not conclude, from the settings and results of this very study."""
    settings = results.settings
    backbone, smaller = settings["backbone"], []
    for row in protocol_table(settings).rows:
        if row["status"] == SMALLER:
            smaller.append(f"{row['item']} {row['study']} (paper: {row['paper']})")
    norm = next((c["spearman"] for c in (predicted or {}).get("controls", []) if c["name"] == "minus_log_norm"), None)
    text = "The paper's raw score largely measures activation norm: two of its three terms scale with 1/variance, and norms "
    text += "grow with depth, so shallow layers score high by construction."
    if norm is not None:
        text += f" Here norm alone reaches Spearman {norm:.2f}."
    limits = [text]
    if backbone.get("quantisation"):
        limits.append(
            f"The teacher is quantised ({backbone['quantisation']}): its states and likelihoods are not those of the "
            "original weights. Hybrid and controls are compared with this same teacher."
        )
    if smaller:
        limits.append(f"Smaller than the paper: {'; '.join(smaller)}.")
    if settings["bridge"]["kind"] != "unet":
        limits.append("The bridge is not the paper's UNet; how well a layer can be bridged may depend on the bridge.")
    seeds = seeds_of(results.agreement)
    limits.append(
        f"One seed ({settings['seed']})"
        + ("" if seeds is None else f" but for the sweep, which trained {seeds['count']} times at every layer")
        + ". Intervals cover the choice of documents, not the randomness of training, and layers "
        "of one network are not independent, so intervals of rank correlations are optimistic."
    )
    if settings["corpus"]["kind"] != "dolma":
        published = settings["corpus"].get("evaluation") == "wikitext103"
        limits.append(
            f"The text is a {settings['corpus']['kind']} corpus, not Dolma v1.7"
            + ("." if published else "; the wiki-like set is not WikiText-103.")
        )
    if results.gaps:
        limits.append(f"Layers without a sweep result: {layer_ranges(list(results.gaps))}.")
    return limits


def sweep_flags(sweeps: dict[int, Json]) -> list[str]:
    """Return the flags of all layers, each naming its layer once."""
    flags = []
    for layer, block in sweeps.items():
        for flag in block.get("flags") or []:
            flags.append(flag if flag.lower().startswith("layer ") else f"layer {layer}: {flag}")
    return [f"{flag[0].upper()}{flag[1:]}" for flag in flags]


def sealed_text(seals: Sequence[Json]) -> str:
    """Say whether the score was fixed before any bridge loss of this home existed."""
    if not seals:
        return "The score never reads a bridge loss."
    last = seals[-1]
    text = f"The score (digest {last['score_digest'][:12]}) was sealed at {last['committed'][:19]} UTC"
    if last["earlier_sweep_stores"]:
        text += f", after {last['earlier_sweep_stores']} bridges had been trained in this home"
    else:
        text += ", before any bridge was trained"
    if len(seals) > 1:
        text += f"; it is seal number {len(seals)} of this study"
    return f"{text}. It never reads a bridge loss."


def objective_text(objective: Json | None) -> str | None:
    """Return the loss weights of the bridge in words, e.g. `diffusion 0.5, reconstruction 0.5`."""
    weights = (objective or {}).get("bridge") or {}
    parts = [f"{name.replace('_', '-')} {number(weight, 2)}" for name, weight in weights.items()]
    return ", ".join(parts) or None


def page_of(
    results: StudyResults, answer: Json, pictures: dict[str, Picture], found: dict[str, Table]
) -> dict[str, Any]:
    """Return all variables of the HTML template."""
    lead = lead_sentences(answer["sentences"])
    control = any(item["kind"] == "control" for item in lead)
    hybrid = answer["hybrid"]
    teacher = next((arm for block in hybrid[:1] for arm in block["arms"] if arm["arm"] == "teacher"), {})
    sweep = next(iter(results.sweeps.values()), {})
    return {
        "title": results.settings["report"]["title"],
        "study_name": results.study_name,
        "settings": results.settings,
        "backbone": results.settings["backbone"],
        "confidence": f"{results.settings['score']['confidence']:.0%}".replace("%", "\u00a0%"),
        "lead": {
            "control": control,
            "title": "Read this first: a simple control wins" if control else "In short",
            "sentences": [item["text"] for item in lead],
        },
        "findings": [item["text"] for item in answer["sentences"] if item not in lead],
        "where": answer["where"],
        "predicted": answer["predicted"],
        "hybrid": hybrid,
        "teacher_ppl": value_of(teacher.get("ppl")),
        "paper_picks": PAPER_PICKS,
        "candidates": results.candidates,
        "documents": (results.score or {}).get("documents"),
        "sections": [
            item
            for item in SECTIONS
            if (item[0] != "findings" or len(lead) < len(answer["sentences"]))
            and (item[0] != "seeds" or seeds_of(results.agreement))
        ],
        "figures": pictures,
        "tables": found,
        "corpus": results.corpus,
        "gates": results.gates,
        "activations": results.activations,
        "score": results.score,
        "agreement": results.agreement,
        "seeds": seeds_of(results.agreement),
        "replace": results.replace,
        "cost": results.cost,
        "gaps": results.gaps,
        "validation": sweep.get("validation"),
        "sweep_flags": sweep_flags(results.sweeps),
        "objective": objective_text(sweep.get("objective")),
        "sealed": sealed_text(results.seals),
        "evaluations": [
            {
                "label": set_label(name),
                "conventions": block.get("conventions"),
                "table": found[f"evaluation_{block['set']}"],
                "differences": found[f"differences_{block['set']}"],
            }
            for name, block in results.evaluations.items()
        ],
        "limits": limits_of(results, answer["predicted"]),
        "versions": versions_of(results),
        "identity": {k: v for k, v in results.identity.items() if isinstance(v, str | int | float)},
        "code": code_of(results),
    }
