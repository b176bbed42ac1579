"""Why a unit will run: the difference between what is asked and what was made before."""

import json
from typing import Any

from dihal_core.inspection import StoreStatus
from dihal_core.remote.link import finished_manifests, home_path
from dihal_core.requests import StageRequest


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat.update(_flatten(item, f"{prefix}{key}."))
        return flat
    return {prefix.rstrip("."): value}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _difference(asked: dict[str, Any], made: dict[str, Any]) -> list[str]:
    reasons: list[str] = []
    old, new = _flatten(made.get("settings", {})), _flatten(asked["settings"])
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            reasons.append(f"{name.removeprefix('all.')} {_short(old.get(name))} -> {_short(new.get(name))}")
    for name in sorted(asked["code"]):
        if made.get("code", {}).get(name) != asked["code"][name]:
            reasons.append(f"code of {name} changed")
    for group, word in (("inputs", "input"), ("libraries", "version of"), ("values", "value")):
        old, new = _flatten(made.get(group, {})), _flatten(asked[group])
        for name in sorted(set(old) | set(new)):
            if old.get(name) != new.get(name):
                label = name.split(".")[0] if group == "inputs" else name
                reasons.append(f"{word} {label} changed")
    return list(dict.fromkeys(reasons))


def explain(request: StageRequest, status: StoreStatus) -> str:
    """Return a sentence: why this unit is cached, resumed or run."""
    if status.state == "intact":
        return "cached: made before with the same settings, inputs and code"
    if status.state == "partial":
        return "will resume: an earlier run was interrupted, its committed units are kept"
    if status.state == "damaged":
        return f"will run: the store is damaged ({status.reason})"
    made: list[tuple[int, str, dict[str, Any]]] = []
    if status.state == "unpublished":
        return f"will run: {status.reason}"
    for manifest in finished_manifests(home_path(request.home), request.stage):
        try:
            if manifest["unit"] == request.unit and manifest["stage"] == request.stage:
                reasons = _difference(request.document, manifest["provenance"]["request"])
                made.append((len(reasons), manifest["provenance"]["finished"], {"reasons": reasons}))
        except (KeyError, TypeError):
            continue
    if not made:
        return "will run: never made before"
    reasons = max(made, key=lambda item: (-item[0], item[1]))[2]["reasons"]
    return "will run: " + "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
