"""The table of a layer's subsamples on disk: `proxies.csv`, one row per subsample."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dihal_core.errors import ArtifactError
from dihal_core.geometry.proxies import row_columns
from dihal_core.store import StageRecord

FILE = "proxies.csv"


def encode_table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the CSV of all subsamples: `group`, `index`, then the columns of `row_columns`."""
    text = io.StringIO()
    # Rows of an earlier attempt come back from JSON with sorted keys: the order is fixed here.
    writer = csv.DictWriter(text, fieldnames=["group", "index", *row_columns()], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_table(record: StageRecord) -> dict[str, dict[str, np.ndarray]]:
    """Return `{group: {column: values by subsample}}` of a geometry record; groups are large and small.

    Raises
    ------
    ArtifactError
        If the table is missing or malformed.
    """
    path = record.path / FILE
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        return {
            group: {
                name: np.array([float(row[name]) for row in rows if row["group"] == group]) for name in row_columns()
            }
            for group in ("large", "small")
        }
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); run the study again, it recomputes geometry") from error


def encode_array(array: np.ndarray) -> bytes:
    """Return the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
