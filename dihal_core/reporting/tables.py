"""A table as data: raw values once, shown as CSV (full precision), Markdown or HTML cells (rounded)."""

import base64
import csv
import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

from dihal_core.reporting.formatting import (
    DASH,
    bounds_of,
    byte_size,
    duration,
    integer,
    interval_text,
    needs_powers,
    number,
    percent,
    power,
    power_interval,
    value_of,
)

Kind = Literal["text", "count", "number", "interval", "share", "bytes", "seconds", "layer"]

_FORMATS: dict[str, Callable[[Any, "Column"], str]] = {
    "text": lambda value, _: DASH if value is None or value == "" else str(value),
    "layer": lambda value, _: DASH if value is None else str(value),
    "count": lambda value, _: integer(value),
    "number": lambda value, column: number(value, column.digits, column.decimals),
    "interval": lambda value, column: interval_text(value, column.digits, column.decimals),
    "share": lambda value, _: percent(value, 1 if isinstance(value, float) and 0 < value < 0.1 else 0),
    "bytes": lambda value, _: byte_size(value),
    "seconds": lambda value, _: duration(value),
}


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: the key of its values, its heading, how they are shown, and what they mean."""

    key: str
    label: str
    kind: Kind = "number"
    help: str = ""
    digits: int = 3
    decimals: int | None = None

    def show(self, value: Any) -> str:
        """Return the rounded text of one value, an en dash where it is missing."""
        return _FORMATS[self.kind](value, self)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of raw values under named columns. `marks[i]` names how row i is set off (HTML class, Markdown bold)."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    marks: tuple[str, ...] = ()

    def cells(self) -> list[list[str]]:
        """Return the rounded text of every cell, row by row; one column keeps to one notation."""
        shown = [self._show_column(column) for column in self.columns]
        return [list(cells) for cells in zip(*shown, strict=True)]

    def _show_column(self, column: Column) -> list[str]:
        values = [row.get(column.key) for row in self.rows]
        if column.kind in ("number", "interval") and column.decimals is None and needs_powers(map(value_of, values)):
            if column.kind == "interval":
                return [power_interval(value, column.digits) for value in values]
            return [power(value, column.digits) for value in values]
        return [column.show(value) for value in values]

    def mark(self, index: int) -> str:
        """Return the mark of row `index`, or an empty string."""
        return self.marks[index] if index < len(self.marks) else ""

    def csv(self) -> str:
        """Return CSV in full precision; an interval takes three columns, four with a standard error; missing: empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        header: list[str] = []
        with_error = {column.key for column in self.columns if any(_error(row.get(column.key)) for row in self.rows)}
        for column in self.columns:
            header.append(column.key)
            if column.kind == "interval":
                header.extend((f"{column.key}_low", f"{column.key}_high"))
                header.extend([f"{column.key}_se"] if column.key in with_error else [])
        writer.writerow(header)
        for row in self.rows:
            line: list[Any] = []
            for column in self.columns:
                value = row.get(column.key)
                if column.kind == "interval":
                    low, high = bounds_of(value) or (None, None)
                    line.extend((_exact(value_of(value)), _exact(low), _exact(high)))
                    line.extend([_exact(_error(value))] if column.key in with_error else [])
                else:
                    line.append(_exact(value))
            writer.writerow(line)
        return out.getvalue()

    def csv_uri(self) -> str:
        """Return the CSV as a data URI, so that the report offers it without a second file."""
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(self.csv().encode()).decode()}"

    def markdown(self) -> str:
        """Return a GitHub-style table; numbers are right-aligned, marked rows are bold."""
        lines = [
            "| " + " | ".join(_escape(column.label) for column in self.columns) + " |",
            "|" + "|".join(":--" if column.kind == "text" else "--:" for column in self.columns) + "|",
        ]
        for index, cells in enumerate(self.cells()):
            bold = "**" if self.mark(index) == "selected" else ""
            lines.append("| " + " | ".join(f"{bold}{_escape(cell)}{bold}" for cell in cells) + " |")
        return "\n".join(lines) + "\n"


def _error(value: Any) -> float | None:
    return value.get("se") if isinstance(value, Mapping) else None


def _exact(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _escape(text: str) -> str:
    """Keep a cell one cell, and keep HTML in names from being rendered as HTML."""
    text = " ".join(text.split())
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        text = text.replace(character, replacement)
    return text
