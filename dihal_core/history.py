"""Studies of one home through time: what a re-run changed, and the results that came before it.

A published result (`studies/<name>/study.json`) is the result of a store plus the key `difference`, if
an earlier study of the same backbone is there. Results that are replaced move to `studies/<name>/history/`.
"""

import datetime
import json
import logging
from pathlib import Path
from typing import Any

from dihal_core.files import dump_json, write_atomically

log = logging.getLogger(__name__)

Json = dict[str, Any]

HISTORY = "history"
KEPT = ("study.json", "locate.json")
"""Published results whose earlier versions are kept."""
UNTOLD = ("compute.", "report.", "profile", "description")
"""Settings that change no number, or that make another study altogether."""
SHOWN = 4


def read_result(path: Path) -> Json | None:
    """Return a published result, or None where there is no readable one."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def score_of(result: Json) -> Json:
    """Return the score block of a study's or a locate run's result; empty if it has none."""
    return result.get("score") or (result.get("results") or {}).get("score") or {}


def previous_result(home: Path, folder: Path, name: str, result: Json) -> tuple[Path, Json] | None:
    """Return where the result before `result` lies and what it holds, or None.

    It is the one published under the same study name, else the one published last for the same profile
    and backbone (other settings, another seed).
    """
    own = read_result(folder / name)
    if own is not None:
        return folder / name, own
    candidates: list[tuple[float, Path, Json]] = []
    for path in (home / "studies").glob(f"*/{name}"):
        found = read_result(path)
        if found is not None and _kind(found) == _kind(result):
            candidates.append((path.stat().st_mtime, path, found))
    if not candidates:
        return None
    _, path, found = max(candidates, key=lambda item: item[:2])
    return path, found


def _kind(result: Json) -> tuple[str, str]:
    settings = result.get("settings") or {}
    return str(settings.get("profile")), str((settings.get("backbone") or {}).get("name"))


def with_history(home: Path, folder: Path, name: str, data: bytes) -> bytes:
    """Return what to publish as `folder/name` for the result `data`; an earlier one is kept first.

    The same result again keeps its difference; a first result of a backbone has none.
    """
    result = json.loads(data)
    found = previous_result(home, folder, name, result)
    if found is None:
        return data
    path, before = found
    if {key: value for key, value in before.items() if key != "difference"} == result:
        return dump_json(before) if path.parent == folder else data
    published = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    if path.parent == folder:
        kept = folder / HISTORY / f"{path.stem}-{published:%Y%m%dT%H%M%S%fZ}.json"
        write_atomically(kept, path.read_bytes())
    try:
        change = {**difference(before, result), "published_before": published.isoformat(timespec="seconds")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a result of another version of this code
        log.warning("%s cannot be compared with the study before it (%s: %s)", name, type(error).__name__, error)
        return data
    return dump_json({**result, "difference": change})


def difference(before: Json, after: Json) -> Json:
    """Return what moved between two results of one backbone, with the sentence that says so (`line`).

    Holds pairs [before, after] of the selected layer, its selection probability, the Spearman of score
    and bridge loss, the KL of the first bridge arm by evaluation set; the rank correlation of both scores over the
    candidate layers they share; and what was changed (settings, revision, versions, code).

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        If a result lacks a block it must have.
    """
    old, new = score_of(before), score_of(after)
    layers = [old["selected_layer"], new["selected_layer"]]
    probabilities = [block["selection_probability"].get(str(block["selected_layer"])) for block in (old, new)]
    changed = changes(before, after)
    agreement = [spearman_of(before), spearman_of(after)]
    kl = {
        name: [kl_of(before, name), kl_of(after, name)]
        for name in sorted((after.get("results") or {}).get("evaluate") or {})
    }
    same = score_correlation(old, new)
    parts = [
        f"selected layer {layers[0]} -> {layers[1]}"
        if layers[0] != layers[1]
        else f"selected layer {layers[1]} as before"
    ]
    if probabilities[1] is not None:
        was = "" if probabilities[0] is None else f" (was {probabilities[0]:.2f})"
        parts.append(f"probability {probabilities[1]:.2f}{was}")
    if same is not None:
        parts.append(f"Spearman of both scores {same:.2f}")
    parts += [f"KL on {name} {a:.3g} -> {b:.3g}" for name, (a, b) in kl.items() if a is not None and b is not None]
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    told = f"; changed: {', '.join(changed[:SHOWN])}{more}" if changed else ""
    return {
        "line": f"Change     {', '.join(parts)}, against study {before['study']}{told}",
        "study_before": before["study"],
        "selected_layer": layers,
        "selection_probability": probabilities,
        "score_spearman": same,
        "agreement_spearman": agreement,
        "kl": kl,
        "changed": changed,
    }


def score_correlation(old: Json, new: Json) -> float | None:
    """Return Spearman's correlation of two scores over the candidate layers they share; None below three."""
    values = [
        {row["layer"]: row["score"]["value"] for row in block["layers"] if row["candidate"]} for block in (old, new)
    ]
    shared = sorted(set(values[0]) & set(values[1]))
    if len(shared) < 3:
        return None
    from dihal_core.geometry.ranks import spearman  # numpy, which a first look at a home does without

    found = float(spearman(*([[side[layer] for layer in shared]] for side in values))[0])  # type: ignore[arg-type]
    return found if found == found else None  # one side constant


def spearman_of(result: Json) -> float | None:
    """Return the rank correlation of score and headline bridge loss of a study, or None."""
    agreement = (result.get("results") or {}).get("agreement") or {}
    block = (agreement.get("losses") or {}).get(agreement.get("headline")) or {}
    return (block.get("spearman") or {}).get("value")


def first_bridge(arms: Json) -> str | None:
    """Return the name of the bridge arm with the fewest sampling steps, or None."""
    names = [name for name in arms if name.startswith("bridge")]
    return min(names, key=lambda name: (len(name), name)) if names else None


def kl_of(result: Json, name: str) -> float | None:
    """Return KL(teacher || hybrid) of the bridge arm with the fewest steps on an evaluation set, or None."""
    arms = (((result.get("results") or {}).get("evaluate") or {}).get(name) or {}).get("arms") or {}
    bridge = first_bridge(arms)
    return None if bridge is None else ((arms[bridge] or {}).get("kl") or {}).get("value")


def changes(before: Json, after: Json) -> list[str]:
    """Return, in words, which settings, weights, versions and code differ between two results."""
    found = []
    old, new = _flatten(before.get("settings") or {}), _flatten(after.get("settings") or {})
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name) and not name.startswith(UNTOLD):
            found.append(f"{name} {_short(old.get(name))} -> {_short(new.get(name))}")
    identities = [
        {name: value for name, value in (result.get("backbone_identity") or {}).items() if name != "revision"}
        for result in (before, after)
    ]
    if identities[0] != identities[1]:
        found.append("weights of the backbone")
    versions = [result.get("versions") or {} for result in (before, after)]
    for name in sorted(set(versions[0]) & set(versions[1])):
        if versions[0][name] != versions[1][name]:
            found.append(f"{name} {versions[0][name]} -> {versions[1][name]}")
    code = [result.get("code") or {} for result in (before, after)]
    stages = [name for name in sorted(set(code[0]) & set(code[1])) if code[0][name] != code[1][name]]
    if stages:
        found.append(f"code of {', '.join(stages)}")
    missing = [result.get("missing_layers") or [] for result in (before, after)]
    if missing[0] != missing[1]:
        found.append(f"layers missing from the sweep {missing[0] or 'none'} -> {missing[1] or 'none'}")
    return found


def _flatten(value: Any, prefix: str = "") -> Json:
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in _flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def _short(value: Any) -> str:
    text = value[:12] if isinstance(value, str) and len(value) == 40 else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
