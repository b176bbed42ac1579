"""The report stage: `report.html` (one file, no network), `study.json`, tables as CSV, figures as PNG and SVG.

`report.html`, `ledger.json` and the tables of the ledger hold seconds, which differ from run to run, so the digest of
this one stage does not reproduce; no later stage depends on it. `study.json` and the figures hold no times and do.
"""

import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from dihal_core.contract import StageContext
from dihal_core.reporting.answer import build_answer
from dihal_core.reporting.formatting import (
    DASH,
    bracket,
    byte_size,
    integer,
    interval_text,
    layer_ranges,
    number,
    p_value,
    percent,
    value_of,
)
from dihal_core.reporting.ledger import code_of, ledger_json, versions_of
from dihal_core.reporting.page import page_of, tables_of
from dihal_core.reporting.pictures import Picture, pictures_of
from dihal_core.reporting.results import Json, StudyResults, load_results, without_bulk

PACKAGE = "dihal_core.reporting"
TEMPLATES_SHA256 = "784e75067bc398d761b099e9baa745fd86fff1603f6aa39085749a35e2aa8b3a"
"""Digest of the template files. Keys cover Python sources only; through this constant they cover the templates too."""


def templates_digest() -> str:
    """Return the SHA-256 over names and bytes of the shipped template files."""
    total = hashlib.sha256()
    folder = resources.files(PACKAGE).joinpath("templates")
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        total.update(entry.name.encode() + b"\0" + entry.read_bytes())
    return total.hexdigest()


class _Absent(jinja2.ChainableUndefined):
    """A value that a result does not hold is shown like any missing value."""

    def __str__(self) -> str:
        return DASH


def _environment(undefined: type[jinja2.Undefined]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE),
        autoescape=True,
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bracket=lambda value, decimals=None: bracket(value, decimals=decimals),
        bytes=byte_size,
        count=integer,
        dash=lambda value: DASH if value is None or value == "" else str(value),
        decimals=lambda value, decimals: number(value, decimals=decimals),
        interval=lambda value, decimals=None: interval_text(value, decimals=decimals),
        p_value=lambda value, before="": f"{before}{p_value(value)}" if p_value(value) else "",
        point=lambda value: number(value_of(value)),
        ranges=layer_ranges,
        share=lambda value: percent(value, 1),
        sig=number,
    )
    return environment


def render_html(
    page: dict[str, Any], undefined: type[jinja2.Undefined] = _Absent, template: str = "report.html.j2"
) -> str:
    """Return the page as one HTML document; every value is escaped, only our own SVG is inserted as markup."""
    figures = {
        name: {"title": picture.title, "caption": picture.caption, "svg": Markup(picture.markup)}
        for name, picture in page["figures"].items()
    }
    return (
        _environment(undefined)
        .get_template(template)
        .render({**page, "figures": _Optional(figures), "tables": _Optional(page["tables"])})
    )


class _Optional(dict[str, Any]):
    """A mapping whose absent entries are None, so that a section can ask for what a partial study lacks."""

    def __missing__(self, key: str) -> None:
        return None


def study_json(results: StudyResults, answer: Json) -> Json:
    """Return the machine-readable result: settings, answer, records, all result blocks, versions. No times."""
    return {
        "format": 1,
        "study": results.study_name,
        "seed": results.settings["seed"],
        "settings": results.settings,
        "backbone_identity": results.identity,
        "answer": answer,
        "failed_layers": {str(layer): message for layer, message in results.failed.items()},
        "missing_layers": sorted(results.gaps),
        "records": [
            {
                "stage": record.stage,
                "unit": record.unit,
                "key": record.key,
                "digest": record.digest,
                "store": f"{record.stage}/{record.key}",
            }
            for record in results.records
        ],
        "results": without_bulk(
            {
                "corpus": results.corpus,
                "gates": results.gates,
                "activations": results.activations,
                "geometry": results.geometry,
                "score": results.score,
                "sweep": results.sweeps,
                "agreement": results.agreement,
                "replace": results.replace,
                "evaluate": results.evaluations,
                "cost": results.cost,
            }
        ),
        "versions": versions_of(results),
        "code": code_of(results),
    }


def _write_figures(context: StageContext, pictures: dict[str, Picture], dpi: int, total: int) -> None:
    shown = [picture for picture in pictures.values() if not picture.name.startswith("mini_")]
    for done, picture in enumerate(shown, start=1):
        for name, content in picture.files(dpi).items():
            context.store.write_bytes(name, content)
        context.progress(done, total, "parts")


def build_report(context: StageContext) -> dict[str, Any]:
    """Write the report of a study and return its counts with the five lines of the answer.

    Inputs may be incomplete (a failed layer, a stage that did not run): the report shows the gap.

    Raises
    ------
    ArtifactError
        If a store that was handed over has no readable result.
    """
    results = load_results(context)
    answer = build_answer(results)
    pictures, tables = pictures_of(results), tables_of(results)
    total = len(pictures) + 2
    _write_figures(context, pictures, results.settings["report"]["figure_dpi"], total)
    for table in tables.values():
        context.store.write_bytes(f"tables/{_file_name(table.name)}.csv", table.csv().encode())
    context.store.write_json("study.json", study_json(results, answer))
    context.store.write_json("ledger.json", ledger_json(results))
    context.progress(total - 1, total, "parts")
    html = render_html(page_of(results, answer, pictures, tables)).encode()
    context.store.write_bytes("report.html", html)
    context.progress(total, total, "parts")
    return {
        "answer": answer["lines"],
        "figures": len([name for name in pictures if not name.startswith("mini_")]),
        "tables": len(tables),
        "html_bytes": len(html),
    }


def _file_name(name: str) -> str:
    """Keep a table's file name one plain name, whatever an evaluation set is called."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
