"""Colours by role: the same role has the same colour in every figure and in the text around it.

Light colours follow Okabe and Ito (distinguishable under the common colour deficiencies); marks also differ in
shape and line style, so no figure needs colour to be read. In the report a figure's light colours are replaced by
CSS variables, which dark mode sets anew; each light colour must therefore be unique.
"""

LIGHT = {
    "ink": "#1c2128",
    "muted": "#626d7a",
    "grid": "#e4e7eb",
    "paper": "#fefefe",
    "predicted": "#0b68a8",
    "observed": "#d0560a",
    "ridge": "#7b6d8d",
    "regressor": "#0d8f6a",
    "skip": "#9aa3ad",
    "gap": "#f3e3d6",
}
DARK = {
    "ink": "#e7eaee",
    "muted": "#9aa5b3",
    "grid": "#2b333d",
    "paper": "#14181d",
    "predicted": "#62b2f0",
    "observed": "#f59450",
    "ridge": "#b9a8d0",
    "regressor": "#4ccca4",
    "skip": "#6f7a87",
    "gap": "#3b2c20",
}

ARM_ROLES = {
    "teacher": "ink",
    "bridge": "observed",
    "regressor": "regressor",
    "ridge": "ridge",
    "ridge-1": "ridge",
    "ridge-all": "ridge",
    "table": "muted",
    "skip": "skip",
}
ARM_MARKERS = {
    "teacher": "s",
    "bridge": "o",
    "regressor": "^",
    "ridge": "D",
    "ridge-1": "p",
    "ridge-all": "d",
    "table": "v",
    "skip": "X",
}
ARM_LINES = {
    "bridge": "-",
    "regressor": "-.",
    "ridge": "--",
    "ridge-1": "--",
    "ridge-all": "--",
    "table": ":",
    "skip": ":",
}
ARM_LABELS = {
    "teacher": "teacher",
    "bridge": "bridge (diffusion)",
    "regressor": "regressor (no diffusion)",
    "ridge": "ridge map",
    "ridge-1": "ridge map, 1 token",
    "ridge-all": "ridge map, all windows",
    "table": "per-token table (no context)",
    "skip": "skip (embedding only)",
}
ARM_ORDER = ("teacher", "bridge", "regressor", "ridge", "ridge-1", "ridge-all", "table", "skip")


def arm_kind(arm: str) -> str:
    """Return the arm without its sampler steps: `bridge` for `bridge@4`."""
    return arm.partition("@")[0]


def arm_label(arm: str) -> str:
    """Return the name of an arm in words, e.g. `bridge (diffusion), 4 steps`."""
    kind, _, steps = arm.partition("@")
    label = ARM_LABELS.get(kind, kind)
    return f"{label}, {steps} step{'' if steps == '1' else 's'}" if steps else label


def ordered_arms(arms: list[str]) -> list[str]:
    """Return teacher, bridges by steps, regressor, ridge, table, skip, then whatever else there is."""

    def place(arm: str) -> tuple[int, int, str]:
        kind, _, steps = arm.partition("@")
        rank = ARM_ORDER.index(kind) if kind in ARM_ORDER else len(ARM_ORDER)
        return rank, int(steps) if steps.isdigit() else 0, arm

    return sorted(arms, key=place)
