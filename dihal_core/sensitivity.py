"""How much the selected layer hangs on choices the paper leaves open. Imports no torch.

A choice is a change of settings. Most change only geometry or score, so the hidden states of the default
serve them all; the token policies need hidden states of their own. All choices are ours.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from dihal_core.config import StudySettings
from dihal_core.errors import ConfigError, nearest
from dihal_core.history import Json, score_correlation
from dihal_core.profiles import explain_validation

Changes = Callable[[StudySettings], dict[str, Any]]


def _always(path: str, value: Any) -> Changes:
    return lambda settings: {path: value}


CHOICES: dict[str, Changes] = {
    "eps-hundredth": lambda s: {"geometry.eps": s.geometry.eps / 100, "geometry.eps_relative": s.geometry.eps_relative / 100},
    "eps-hundredfold": lambda s: {"geometry.eps": s.geometry.eps * 100, "geometry.eps_relative": s.geometry.eps_relative * 100},
    "ridge-relative": _always("geometry.ridge", "relative"),
    "k-half": lambda s: {"geometry.k": max(2, s.geometry.k // 2)},
    "k-double": lambda s: {"geometry.k": 2 * s.geometry.k},
    "curvature-inverse-trace": _always("geometry.curvature_form", "inverse_trace"),
    "curvature-k-over-trace": _always("geometry.curvature_form", "k_over_trace"),
    "cosine": _always("geometry.metric", "cosine"),
    "without-self": _always("geometry.include_self", False),
    "unit-trace": _always("geometry.scaling", "unit_trace"),
    "token-rms": _always("geometry.scaling", "token_rms"),
    "score-of-means": _always("score.aggregate", "score_of_means"),
    "log-proxies": _always("score.transform", "log"),
    "tokens-last": lambda s: _one_row(s, "last"),
    "tokens-mean": lambda s: _one_row(s, "mean"),
}  # fmt: skip
"""Name of a choice -> the settings it changes, given those of the default."""


def _one_row(settings: StudySettings, policy: str) -> dict[str, Any]:
    """One example per window: subsamples shrink to the pool that is left."""
    pool, geometry = settings.activations.num_sequences, settings.geometry
    return {
        "activations.token_policy": policy,
        "activations.positions_per_sequence": 1,
        "geometry.large_size": min(geometry.large_size, pool),
        "geometry.small_size": min(geometry.small_size, pool),
    }


@dataclasses.dataclass(frozen=True)
class Choice:
    """One choice, resolved against the settings of a study."""

    name: str
    settings: StudySettings
    changes: str
    """What it changes, in words."""
    reuses_dump: bool


def resolve_choices(settings: StudySettings, names: Iterable[str] | None = None) -> tuple[list[Choice], dict[str, str]]:
    """Return the choices to measure and, by name, why others cannot be.

    Parameters
    ----------
    names
        Names in `CHOICES`; None means all that reuse the hidden states of the default, `all` means all.

    Raises
    ------
    ConfigError
        For an unknown name.
    """
    asked = list(names) if names is not None else None
    for name in asked or ():
        if name not in CHOICES and name != "all":
            raise ConfigError(f"unknown choice {name!r}{nearest(name, CHOICES)}; choose from all, {', '.join(CHOICES)}")
    everything = list(CHOICES) if asked is None or "all" in asked else asked
    found: list[Choice] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(everything):
        before = settings.model_dump(mode="json")
        changes = {path: new for path, new in CHOICES[name](settings).items() if _get(before, path) != new}
        if not changes:
            left_out[name] = "the default already is this choice"
            continue
        reuses = not any(path.startswith("activations.") for path in changes)
        if asked is None and not reuses:
            left_out[name] = "needs hidden states of its own; name it to have it measured"
            continue
        words = ", ".join(f"{path} {_get(before, path)} -> {new}" for path, new in changes.items())
        for path, new in changes.items():
            section, _, field = path.partition(".")
            before[section] = {**before[section], field: new}
        try:
            found.append(Choice(name, StudySettings.model_validate(before), words, reuses))
        except ValidationError as error:
            left_out[name] = explain_validation(error)
    return found, left_out


def _get(settings: Json, path: str) -> Any:
    section, _, field = path.partition(".")
    return settings[section][field]


def choice_row(name: str, changes: str, reuses_dump: bool, score: Json, default: Json) -> Json:
    """Return one row of the table: pick, probability, rank correlation of S with the default's over layers.

    `rank_of_default` is the rank this choice gives to the layer that the default selects.
    """
    ranks = {row["layer"]: row["rank"] for row in score["layers"] if row["candidate"]}
    selected = score["selected_layer"]
    return {
        "choice": name,
        "changes": changes,
        "selected": selected,
        "same": selected == default["selected_layer"],
        "probability": score["selection_probability"][str(selected)],
        "spearman": score_correlation(default, score),
        "rank_of_default": ranks.get(default["selected_layer"]),
        "dump": "the default's" if reuses_dump else "its own",
    }
