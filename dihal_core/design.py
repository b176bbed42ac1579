"""Which evaluation documents a design choice may look at: the development half unless a half is named.

Ours: the paper does not say on which text its choices were made.
"""

from collections.abc import Mapping
from typing import Any

PART = "corpus.evaluation_part"


def for_design(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `overrides` with the development documents chosen unless they name a half themselves.

    A comparison of architectures is made to choose one. Scored on the documents whose figures are quoted, the choice
    would use them up.
    """
    return {PART: "development", **(overrides or {})}
