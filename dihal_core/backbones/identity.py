"""What identifies the weights of a backbone in a key. Imports no torch.

A hub model is its id and commit, local files are their SHA-256 (remembered by path, size and
modification time, so that gigabytes are hashed once). An asset's digest is in every key already,
as an input; random weights follow from settings and seed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError, ConfigError
from dihal_core.files import dump_json, write_atomically

WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja")


def backbone_identity(backbone: BackboneSettings, home: Path) -> dict[str, Any]:
    """Return the JSON that stands for the weights and tokenizer of `backbone` in keys.

    Parameters
    ----------
    backbone
        Settings of the backbone.
    home
        Folder of all stores; `identities.json` in it remembers file digests.

    Raises
    ------
    AssetError
        If a local file or folder does not exist or holds no files.
    """
    if backbone.source in ("asset", "random"):
        return {"source": backbone.source, "name": backbone.name}
    if backbone.source == "hub":
        return {"source": "hub", "id": backbone.identifier, "revision": backbone.revision or "main"}
    path = Path(backbone.identifier)
    if backbone.source == "gguf":
        files = [path] if path.is_file() else []
    else:
        files = sorted({file for pattern in WEIGHT_FILES for file in path.glob(pattern)})
    if not files:
        raise AssetError(
            f"backbone.identifier {str(path)!r} holds no model files for source={backbone.source}; "
            "give a .gguf file or a save_pretrained folder"
        )
    return {"source": backbone.source, "files": file_digests(files, home / "identities.json")}


def pin_revision(backbone: BackboneSettings, ask_hub: bool = True) -> BackboneSettings:
    """Return hub settings whose `revision` is a commit, so that a moving branch cannot change under a key.

    A downloaded snapshot is taken first, then the hub is asked (unless `ask_hub` is False). Other sources
    come back unchanged.

    Raises
    ------
    ConfigError
        If neither knows the model, with the reason.
    """
    if backbone.source != "hub" or _is_commit(backbone.revision):
        return backbone
    commit = pin_commit(backbone.identifier, backbone.revision, ("config.json",), ask_hub, "set backbone.source=folder")
    return backbone if commit == backbone.revision else backbone.model_copy(update={"revision": commit})


def pin_commit(
    identifier: str, revision: str | None, names: tuple[str, ...], ask_hub: bool, otherwise: str
) -> str | None:
    """Return the commit of a hub model: of its downloaded snapshot, else of the hub.

    Parameters
    ----------
    identifier, revision
        Hub id, and the branch, tag or commit wanted; None is `main`.
    names
        Files of the model, any of which shows that it was downloaded.
    ask_hub
        If False, a revision that no snapshot resolves comes back as it was.
    otherwise
        What to do where there is no network, for the message.

    Raises
    ------
    ConfigError
        If neither knows the model, with the reason.
    """
    if _is_commit(revision):
        return revision
    from huggingface_hub import HfApi, try_to_load_from_cache

    wanted = revision or "main"
    for name in names:
        cached = try_to_load_from_cache(identifier, name, revision=wanted)
        if isinstance(cached, str):
            return Path(*Path(cached).parts[: -len(Path(name).parts)]).name
    if not ask_hub:
        return revision
    try:
        return HfApi().model_info(identifier, revision=wanted, timeout=20).sha
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no details"]
        raise ConfigError(
            f"hub model {identifier!r} at {wanted!r} is not downloaded and the hub gave no commit "
            f"({type(error).__name__}: {lines[0][:160]}); download it, log in with `hf auth login` if it is gated, "
            f"or {otherwise}"
        ) from error


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision)


def file_digests(files: list[Path], memory: Path) -> dict[str, str]:
    """Return `{name: SHA-256}` of files; digests are remembered in the file `memory` by path, size and time."""
    known = _remembered(memory)
    found, changed = {}, False
    for file in files:
        facts = file.stat()
        mark = f"{file.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
        if mark not in known:
            with open(file, "rb") as handle:
                known[mark] = hashlib.file_digest(handle, "sha256").hexdigest()
            changed = True
        found[file.name] = known[mark]
    if changed:
        write_atomically(memory, dump_json(known))
    return found


def _remembered(memory: Path) -> dict[str, str]:
    """Digests noted earlier; an unreadable memory only costs hashing again."""
    try:
        data = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
