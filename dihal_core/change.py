"""How the difference to the previous study of a backbone is shown: a line in the published page, a page of its own.

A report's store is a function of its inputs, and what was published before is none of them. So the line is put
into the published copy alone, as `difference` is into the published result (`dihal_core.history`).
"""

import html
from pathlib import Path
from typing import Any

from dihal_core.files import write_atomically
from dihal_core.history import Json

FILES = {"report": "difference.md", "locate": "locate-difference.md"}
"""File beside the page of a flow's last stage."""
PLACE = b"</header>"
"""End of the first lines of both pages: the difference comes last in them."""


def sentence(change: Json) -> str:
    """Return the line of a difference without the word in front: `selected layer 2 -> 3, probability 0.81 ...`."""
    return str(change["line"]).removeprefix("Change").strip()


def with_change(page: bytes, change: Json, file: str) -> bytes:
    """Return the HTML of a report with the difference under its heading, linked to `file`."""
    told = html.escape(sentence(change))
    line = f'<p class="facts" id="change"><b>Since the previous study:</b> {told} (<a href="{file}">in full</a>)</p>\n'
    return page.replace(PLACE, line.encode() + PLACE, 1)


def publish_change(folder: Path, stage: str, change: Json | None) -> None:
    """Write the page of a difference beside the report; without a difference there is none."""
    path = folder / FILES[stage]
    if change is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, change_page(change).encode())


def change_page(change: Json) -> str:
    """Return a difference in full, as Markdown."""
    rows = [
        ("selected layer", *change["selected_layer"]),
        ("probability of the selected layer", *change["selection_probability"]),
        ("Spearman of score and bridge loss", *change["agreement_spearman"]),
        *((f"KL on {name}", *pair) for name, pair in change["kl"].items()),
    ]
    table = "".join(f"| {name} | {_short(before)} | {_short(after)} |\n" for name, before, after in rows)
    changed = "".join(f"- {item}\n" for item in change["changed"]) or "- nothing that is recorded\n"
    same = change["score_spearman"]
    return (
        f"# Since the previous study\n\n{sentence(change)}\n\nThe study before is {change['study_before']}, published "
        f"{change['published_before']}; its result is in `history/` if it had the same name.\n\n"
        f"| | before | now |\n|---|---:|---:|\n{table}\n"
        + ("" if same is None else f"Spearman of both scores over the layers they share: {same:.3f}.\n\n")
        + f"Changed:\n\n{changed}"
    )


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
