"""Tables of a sweep with several seeds: spread per layer, and agreement between seeds and with the score."""

from typing import Any

from dihal_core.reporting.questions import HEADLINE_LOSS
from dihal_core.reporting.results import Json
from dihal_core.reporting.tables import Column, Table
from dihal_core.reporting.tables_agreement import LOSSES
from dihal_core.reporting.tables_locate import ordered


def seeds_of(agreement: Json | None) -> Json | None:
    """Return the block on seeds of an agreement record, None where there was one seed."""
    return (agreement or {}).get("seeds")


def seed_tables(agreement: Json | None) -> list[Table]:
    """Return both tables, none for a single seed."""
    seeds = seeds_of(agreement)
    return [] if seeds is None else [seed_agreement_table(seeds), seed_layer_table(seeds)]


def seed_agreement_table(seeds: Json) -> Table:
    """Return rank correlations between seeds and of score and mean loss, per loss."""
    columns = (
        Column("loss", "validation loss", "text"),
        Column("between", "Spearman between seeds", "interval", "mean over pairs of seeds", decimals=3),
        Column("lowest", "lowest pair", decimals=3),
        Column("score", "Spearman of score and minus the mean loss", "interval", decimals=2),
        Column("each", "seed by seed", "text"),
        Column("best", "best observed layer, seed by seed", "text"),
    )
    rows = []
    order = ordered(seeds["losses"], LOSSES)
    for name in order:
        block = seeds["losses"][name]
        rows.append(
            {
                "loss": LOSSES.get(name, name),
                "between": block["between_seeds"],
                "lowest": block["between_seeds"]["lowest"],
                "score": block["score"],
                "each": ", ".join("-" if value is None else f"{value:.2f}" for value in block["score"]["per_seed"]),
                "best": ", ".join(map(str, block["best_observed"])),
            }
        )
    marks = tuple("selected" if name == HEADLINE_LOSS else "" for name in order)
    return Table("seeds", f"Do {seeds['count']} seeds rank the layers alike?", columns, tuple(rows), marks)


def seed_layer_table(seeds: Json) -> Table:
    """Return mean, standard deviation and range over seeds per layer, for the headline loss and the KL."""
    shown = [name for name in (HEADLINE_LOSS, "kl") if name in seeds["losses"]]
    columns = (
        Column("layer", "layer", "layer"),
        *(
            column
            for name in shown
            for column in (
                Column(name, f"{name.upper()}, mean [range]", "interval", "brackets: lowest and highest seed"),
                Column(f"{name}_sd", "sd over seeds", digits=2),
            )
        ),
        Column("own", "not better than its frozen ridge", "text", "the rank there would be the ridge's own"),
    )
    own: dict[int, list[Any]] = {}
    for item in seeds["ridges_own"]:
        own.setdefault(int(item["layer"]), []).append(item["seed"])
    layers = sorted({int(layer) for name in shown for layer in seeds["losses"][name]["layers"]})
    rows = []
    for layer in layers:
        row: Json = {"layer": layer, "own": f"seed {', '.join(map(str, own[layer]))}" if layer in own else "no seed"}
        for name in shown:
            found = seeds["losses"][name]["layers"].get(str(layer))
            if found is not None:
                row[name] = {"value": found["mean"], "low": found["low"], "high": found["high"]}
                row[f"{name}_sd"] = found["sd"]
        rows.append(row)
    return Table("seed_layers", "Spread over seeds", columns, tuple(rows))
