"""The locate stage: one page on where diffusion should enter, without training anything.

Writes `locate.html` (one file, no network), `locate.json`, `subsamples.csv` (layer x subsample x metric) and the
figures. It holds no times, so its digest reproduces.
"""

import csv
import io
from collections.abc import Mapping
from typing import Any

from dihal_core.contract import StageContext
from dihal_core.geometry.table import read_table
from dihal_core.reporting.draw_locate import draw_cka, draw_geometry, draw_score
from dihal_core.reporting.formatting import interval_text, percent, value_of
from dihal_core.reporting.pictures import Picture
from dihal_core.reporting.questions import PAPER_PICKS
from dihal_core.reporting.report import render_html
from dihal_core.reporting.results import Json, StudyResults, load_results
from dihal_core.reporting.tables import Column, Table
from dihal_core.reporting.tables_locate import (
    comparator_table,
    layer_table,
    metric_table,
    stability_table,
    variant_table,
)
from dihal_core.store import StageRecord

TEMPLATE = "locate.html.j2"
SUBSAMPLES = "subsamples.csv"


def build_locate(context: StageContext) -> dict[str, Any]:
    """Write the page of one backbone; return the answer's lines and counts.

    Raises
    ------
    ArtifactError
        If a store that was handed over has no readable result.
    """
    results = load_results(context)
    score = results.score or {}
    lines = answer_lines(results, score)
    pictures, tables = _pictures(results, score), _tables(results, score)
    dpi = results.settings["report"]["figure_dpi"]
    for done, picture in enumerate(pictures.values(), start=1):
        for name, content in picture.files(dpi).items():
            context.store.write_bytes(name, content)
        context.progress(done, len(pictures) + 1, "parts")
    context.store.write_bytes(SUBSAMPLES, subsample_csv(context.inputs["geometry"]).encode())
    context.store.write_json(
        "locate.json",
        {
            "format": 1,
            "study": results.study_name,
            "settings": results.settings,
            "backbone_identity": results.identity,
            "answer": lines,
            "score": score,
            "metrics": results.metrics,
        },
    )
    html = render_html(_page(results, score, lines, pictures, tables), template=TEMPLATE).encode()
    context.store.write_bytes("locate.html", html)
    context.progress(len(pictures) + 1, len(pictures) + 1, "parts")
    return {"answer": lines, "selected_layer": score["selected_layer"], "html_bytes": len(html)}


def answer_lines(results: StudyResults, score: Json) -> list[str]:
    """Return the answer in at most five lines: pick, certainty, scaling, norm, evidence."""
    backbone, selected = results.settings["backbone"], score["selected_layer"]
    rows = {row["layer"]: row for row in score["layers"] if row["candidate"]}
    order = sorted(rows.values(), key=lambda row: row["rank"])
    probability = score["selection_probability"][str(selected)]
    sure = "no selection probability" if probability is None else f"selection probability {probability:.2f}"
    picks = ", ".join(
        f"{name.replace('_', ' ')} {variant['selected']}"
        for name, variant in score["variants"].items()
        if name != "raw" and variant["selected"] is not None
    )
    return [
        f"Where      layer {selected} of {backbone['num_layers']} of {backbone['name']}; "
        f"S = {interval_text(rows[selected]['score'], decimals=2)}, {sure}",
        "Next       "
        + ", ".join(f"layer {row['layer']} (S {interval_text(row['score'], decimals=2)})" for row in order[1:4]),
        f"Others     would select: {picks}",
        f"Evidence   {score['rows']:,} token states of {score['documents']:,} documents, "
        f"worth {score['effective_documents']:.0f} of equal length{_worth(score)}",
        f"Caution    {score['flags'][0] if score['flags'] else 'nothing was flagged'}",
    ]


def _worth(score: Json) -> str:
    worth = score["effective_rows"]
    return (
        ""
        if worth is None
        else f"; averaged over single dimensions they tell as much as {worth:,.0f} independent ones at layer {score['selected_layer']}"
    )


def subsample_csv(geometry: Mapping[int, StageRecord]) -> str:
    """Return every subsample of every layer: `layer, group, index`, then one column per metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] | None = None
    for layer in sorted(geometry):
        for group, columns in read_table(geometry[layer]).items():
            if head is None:
                head = list(columns)
                writer.writerow(["layer", "group", "index", *head])
            for index in range(len(columns[head[0]])):
                writer.writerow([layer, group, index, *(repr(float(columns[name][index])) for name in head)])
    return out.getvalue()


def ranking_table(score: Json) -> Table:
    """Return the candidate layers, best first."""
    columns = (
        Column("rank", "rank", "count"),
        Column("layer", "layer", "layer"),
        Column("score", "score S", "interval", decimals=2),
        Column("selection_probability", "P(selected)", "share"),
        Column("curvature", "curvature", "interval"),
        Column("monotonicity", "monotonicity", "interval"),
        Column("effective_rank", "effective rank", "interval", decimals=2),
        Column("log_mean_norm", "log mean norm", decimals=2),
    )
    rows = sorted((row for row in score["layers"] if row["candidate"]), key=lambda row: row["rank"])
    marks = tuple("selected" if row["layer"] == score["selected_layer"] else "" for row in rows)
    return Table("ranking", "Candidate layers, best first", columns, tuple(rows), marks)


def _pictures(results: StudyResults, score: Json) -> dict[str, Picture]:
    found = [
        Picture(
            "geometry", "Three proxies against depth",
            "The three proxies at every layer with 95 % intervals over documents; the dotted line is the selected layer. "
            "Hollow: layers 0 and L, which are never candidates.",
            lambda: draw_geometry(score),
        ),
        Picture(
            "score", "Score and selection probability against depth",
            "Score S with its interval, and below how often each layer has the largest S when documents are resampled.",
            lambda: draw_score(score),
        ),
    ]  # fmt: skip
    metrics = results.metrics
    if metrics is not None and metrics["cka"]["matrix"] is not None:
        found.append(
            Picture(
                "cka", "Similarity of layers",
                "Debiased linear CKA between layers on the same token states: 1 where two layers hold the same geometry.",
                lambda: draw_cka(metrics["cka"]["layers"], metrics["cka"]["matrix"], score["selected_layer"]),
            )
        )  # fmt: skip
    return {picture.name: picture for picture in found}


def _tables(results: StudyResults, score: Json) -> dict[str, Table]:
    found = [
        ranking_table(score),
        comparator_table(
            score, {row["layer"]: row.get("ridge_r2") for row in (results.metrics or {}).get("layers", [])}
        ),
        variant_table(score),
        stability_table(score),
        layer_table(score),
    ]
    if results.metrics is not None:
        found.append(metric_table(results.metrics))
    return {table.name: table for table in found}


def _page(
    results: StudyResults, score: Json, lines: list[str], pictures: dict[str, Picture], tables: dict[str, Table]
) -> dict[str, Any]:
    settings, selected = results.settings, score["selected_layer"]
    rows = {row["layer"]: row for row in score["layers"]}
    probability = score["selection_probability"][str(selected)]
    return {
        "settings": settings,
        "backbone": settings["backbone"],
        "study_name": results.study_name,
        "selected": selected,
        "depth": selected / settings["backbone"]["num_layers"],
        "score": score,
        "score_text": interval_text(rows[selected]["score"], decimals=2),
        "probability": None if probability is None else percent(probability, 0),
        "norm": value_of(rows[selected]["log_mean_norm"]),
        "lines": lines,
        "flags": score["flags"],
        "paper_picks": PAPER_PICKS,
        "figures": pictures,
        "tables": tables,
        "identity": {k: v for k, v in results.identity.items() if isinstance(v, str | int | float)},
        "quantised": settings["backbone"].get("quantisation"),
    }
