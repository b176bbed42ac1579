"""Profiles: named, complete settings as TOML files beside this module, and backbone presets.

`load_study("quickstart", overrides={"sweep.training.max_steps": 40})` returns `StudySettings`.
"""

import functools
import json
import tomllib
from collections.abc import Mapping, Set
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dihal_core.config import BridgeSettings, StudySettings
from dihal_core.errors import ConfigError, nearest


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def profile_names() -> tuple[str, ...]:
    """Return the names of all shipped profiles, sorted."""
    names = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml") and n != "backbones.toml"))


def backbone_names() -> tuple[str, ...]:
    """Return the names of all backbone presets, sorted."""
    return tuple(sorted(_read("backbones")))


def profile_for(backbone: str) -> str:
    """Return the profile made for a backbone preset: quickstart if it is its own, else the first by name."""
    own = [name for name in ("quickstart", *profile_names()) if _profile(name)["backbone"] == backbone]
    return own[0] if own else "quickstart"


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _profile(name: str) -> dict[str, Any]:
    if name not in profile_names():
        raise ConfigError(
            f"unknown profile {name!r}{nearest(name, profile_names())}; choose one of {', '.join(profile_names())}"
        )
    data = _read(name)
    if "extends" in data:
        data = _merge(_profile(data["extends"]), {k: v for k, v in data.items() if k != "extends"})
    return data


def _parameters_of(config: dict[str, Any]) -> int:
    """Roughly: 12 d^2 a block and one embedding; for planning only."""
    width: Any = config.get("hidden_size", config.get("n_embd"))
    layers: Any = config.get("num_hidden_layers", config.get("n_layer"))
    return 12 * layers * width**2 + config["vocab_size"] * width


def _backbone_from_folder(folder: Path) -> dict[str, Any]:
    """Settings of a local `save_pretrained` folder, from its config.json alone."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {"name": folder.name, "source": "folder", "identifier": str(folder.resolve()), **_shapes_of(config)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"backbone folder {folder} has no readable Hugging Face config.json ({type(error).__name__}: {error}); "
            f"give a save_pretrained folder or one of {', '.join(backbone_names())}"
        ) from error


def _shapes_of(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config", config)
    return {
        "model_type": inner["model_type"],
        "num_layers": inner.get("num_hidden_layers", inner.get("n_layer")),
        "hidden_size": inner.get("hidden_size", inner.get("n_embd")),
        "vocab_size": inner["vocab_size"],
        "num_parameters": _parameters_of(inner),
    }


def _backbone_from_hub(identifier: str) -> dict[str, Any]:
    """Settings of a hub model without a preset, from its config.json."""
    from dihal_core.backbones.hub import hub_config

    config, separator = hub_config(identifier, ", ".join(backbone_names()))
    facts = {"name": identifier.partition("/")[2], "source": "hub", "identifier": identifier}
    try:
        return {**facts, **_shapes_of(config), "separator_token": separator}
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"config.json of hub model {identifier!r} lacks a shape ({type(error).__name__}: {error}); describe it with "
            "--set backbone.source=hub backbone.identifier=... (model_type, num_layers, hidden_size, vocab_size, "
            "num_parameters)"
        ) from error


def resolve_backbone(name: str) -> dict[str, Any]:
    """Return the settings of a preset, of a local model folder, or of a hub model (organisation/model).

    The hub id of a preset is that preset. Another one is looked up on the hub, or in what was downloaded before.

    Raises
    ------
    ConfigError
        Naming the nearest preset, or why the hub model will not do.
    NetworkError
        If the hub does not answer.
    """
    presets = _read("backbones")
    if name in presets:
        return dict(presets[name])
    if Path(name).expanduser().is_dir():
        return _backbone_from_folder(Path(name).expanduser())
    same = [preset for preset in presets.values() if preset["source"] == "hub" and preset["identifier"] == name]
    if same:
        return dict(same[0])
    from dihal_core.backbones.hub import is_hub_id

    if is_hub_id(name):
        return _backbone_from_hub(name)
    raise ConfigError(
        f"unknown backbone {name!r}{nearest(name, presets)}; choose one of {', '.join(sorted(presets))}, give the path "
        "of a local model folder or a hub id (organisation/model)"
    )


def known_paths(model: type[BaseModel] = StudySettings, prefix: str = "") -> tuple[str, ...]:
    """Return every dotted setting name, for messages and completion."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        found.append(path)
        for part in get_args(field.annotation) or (field.annotation,):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found.extend(known_paths(part, f"{path}."))
    return tuple(dict.fromkeys(found))


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse one `a.b=value` of `--set`; the value is JSON where it parses as such, else a string."""
    path, separator, value = text.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"--set {text!r} is not of the form section.name=value, e.g. sweep.training.max_steps=40")
    try:
        return path.strip(), json.loads(value)
    except ValueError:
        return path.strip(), value.strip()


def _apply(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    names = known_paths()
    free_form = path.startswith("backbone.config_overrides.")
    if not free_form and path not in names:
        raise ConfigError(f"unknown setting {path!r}{nearest(path, names)}; `dihal plan --settings` lists all of them")
    for part in reversed(path.split(".")):
        value = {part: value}
    return _merge(data, value)


def _one_architecture(bridge: Mapping[str, Any], given: Set[str]) -> dict[str, Any]:
    """Name the bridge's kind, and drop what a profile set for another kind than the one that was asked for."""
    kinds = {model.model_fields["kind"].default: model for model in get_args(get_args(BridgeSettings)[0])}
    kind = bridge.get("kind", "mlp")
    known = kinds[kind].model_fields if kind in kinds else bridge
    return {name: value for name, value in {**bridge, "kind": kind}.items() if name in known or name in given}


def explain_validation(error: ValidationError) -> str:
    """Turn a pydantic error into sentences that name setting, value and what was accepted."""
    sentences = []
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        path = ".".join(place[:1] + place[2:] if place[:1] == ["bridge"] and len(place) > 2 else place)
        got = "" if item["type"] == "value_error" or item["type"] == "missing" else f"{path} = {item['input']!r}: "
        sentences.append(
            f"{got}{item['msg'].removeprefix('Value error, ')}" + (f" ({path})" if not got and path else "")
        )
    return "; ".join(sentences)


def load_study(
    profile: str = "quickstart",
    backbone: str | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> StudySettings:
    """Return the settings of a study: profile, then backbone, then overrides (dotted names).

    Raises
    ------
    ConfigError
        For an unknown profile, backbone or setting (with the nearest valid name) or a value out of bounds.
    """
    data = {**_profile(profile), "profile": profile}
    chosen = backbone if backbone is not None else data["backbone"]
    data["backbone"] = resolve_backbone(chosen)
    if seed is not None:
        data["seed"] = seed
    for path, value in (overrides or {}).items():
        data = _apply(data, path, value)
    given = {path.removeprefix("bridge.") for path in overrides or {} if path.startswith("bridge.")}
    data["bridge"] = _one_architecture(data.get("bridge", {}), given)
    try:
        return StudySettings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"profile {profile!r}: {explain_validation(error)}") from error


def with_overrides(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> StudySettings:
    """Return complete settings (as `study.json` holds them) with dotted overrides.

    Raises
    ------
    ConfigError
        For an unknown setting or a value out of bounds.
    """
    data = dict(settings)
    for path, value in overrides.items():
        data = _apply(data, path, value)
    try:
        return StudySettings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"settings of a finished study: {explain_validation(error)}") from error
