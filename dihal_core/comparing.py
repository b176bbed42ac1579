"""Finished studies of one home side by side, and the difference between two of one backbone. Imports no torch."""

from pathlib import Path
from typing import Any

from dihal_core.errors import ArtifactError, ConfigError, nearest
from dihal_core.history import Json, difference, first_bridge, read_result, score_of
from dihal_core.remote.link import pull_studies

RESULTS = ("study.json", "replace.json", "sweep.json", "locate.json")
"""Results of a study's folder, the fullest first."""


def finished_results(home: Path, names: tuple[str, ...] = RESULTS) -> dict[str, Path]:
    """Return `{study: path of its fullest result}` of every study of `home`."""
    found: dict[str, Path] = {}
    for name in names:
        for path in sorted((home / "studies").glob(f"*/{name}")):
            found.setdefault(path.parent.name, path)
    return found


def load_result(home: Path, study: str | None, names: tuple[str, ...] = RESULTS) -> tuple[Path, Json]:
    """Return path and content of a study's result; without a name of the one published last.

    Raises
    ------
    ConfigError
        If there is no such study.
    ArtifactError
        If its result is unreadable.
    """
    found = finished_results(home, names)
    if not found:
        raise ConfigError(f"no finished study under {home / 'studies'}; run `dihal study` first")
    if study is None:
        path = max(found.values(), key=lambda item: item.stat().st_mtime)
    elif study in found:
        path = found[study]
    else:
        raise ConfigError(
            f"no finished study {study!r} under {home}{nearest(study, found)}; there are {', '.join(sorted(found))}"
        )
    data = read_result(path)
    if data is None or "settings" not in data:
        raise ArtifactError(f"{path} is unreadable; run the study again")
    return path, data


def compare_studies(home: Path, studies: list[str] | None = None) -> Json:
    """Return `rows` (one per study) and `differences` (of neighbours in the list that share a backbone).

    Parameters
    ----------
    studies
        Names of folders under `studies/`; None means all of this home, oldest first.

    Raises
    ------
    ConfigError
        For an unknown name, or fewer than two studies.
    ArtifactError
        If a result is unreadable.
    """
    pull_studies(home, RESULTS)
    if studies is None:
        found = finished_results(home)
        studies = sorted(found, key=lambda name: found[name].stat().st_mtime)
    names = list(dict.fromkeys(studies))
    if len(names) < 2:
        raise ConfigError(
            f"got {len(names)} studies ({', '.join(names) or 'none'}); a comparison needs two of this home: "
            f"{', '.join(sorted(finished_results(home))) or 'there is none under ' + str(home / 'studies')}"
        )
    results = {name: load_result(home, name)[1] for name in names}
    last: dict[str, str] = {}
    differences = []
    for name, result in results.items():
        backbone = result["settings"]["backbone"]["name"]
        if backbone in last and score_of(results[last[backbone]]) and score_of(result):
            change = difference({**results[last[backbone]], "study": last[backbone]}, {**result, "study": name})
            differences.append({**change, "study": name})
        last[backbone] = name
    return {"rows": [study_row(name, result) for name, result in results.items()], "differences": differences}


def study_row(name: str, result: Json) -> Json:
    """Return one study in numbers: pick, score, agreement, and PPL and KL of the first bridge arm by set."""
    settings, blocks = result["settings"], result.get("results") or {}
    score, agreement = score_of(result), blocks.get("agreement") or {}
    layer = score.get("selected_layer", (blocks.get("replace") or {}).get("layer"))
    rows = {row["layer"]: row for row in score.get("layers") or []}
    loss = (agreement.get("losses") or {}).get(agreement.get("headline")) or {}
    return {
        "study": name,
        "profile": settings["profile"],
        "seed": settings["seed"],
        "backbone": settings["backbone"]["name"],
        "revision": settings["backbone"].get("revision"),
        "layers": settings["backbone"]["num_layers"],
        "selected": layer,
        "score": rows.get(layer, {}).get("score"),
        "probability": (score.get("selection_probability") or {}).get(str(layer)),
        "spearman": loss.get("spearman"),
        "kendall": loss.get("kendall"),
        "best": loss.get("best_observed"),
        "rank_gap": loss.get("rank_gap"),
        "sets": [_set_row(label, block) for label, block in (blocks.get("evaluate") or {}).items()],
    }


def _set_row(name: str, block: Json) -> Json:
    arms: dict[str, Any] = block["arms"]
    bridge = (arms.get(first_bridge(arms) or "") or {}) if arms else {}
    return {
        "set": name,
        "layer": block.get("layer"),
        "teacher_ppl": (arms.get("teacher") or {}).get("ppl"),
        "ppl": bridge.get("ppl"),
        "kl": bridge.get("kl"),
    }


def comparison_lines(found: Json) -> list[str]:
    """Return one line per study and one per difference."""
    lines = [
        f"Study      {row['study']}: layer {'none' if row['selected'] is None else row['selected']} of {row['layers']} of "
        f"{row['backbone']}" + ("" if row["probability"] is None else f", probability {row['probability']:.2f}")
        for row in found["rows"]
    ]
    return lines + [f"{item['line']} (study {item['study']})" for item in found["differences"]]
