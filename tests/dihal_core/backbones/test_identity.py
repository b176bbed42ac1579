"""Identities follow the content of files and touch no torch."""

import os
import subprocess
import sys

import pytest

from dihal_core.backbones.identity import backbone_identity, pin_revision
from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError


def settings(source: str, identifier: str, **more) -> BackboneSettings:
    return BackboneSettings(
        name="b", source=source, identifier=str(identifier), model_type="llama", num_layers=2, hidden_size=8,
        vocab_size=300, num_parameters=1, **more,
    )  # fmt: skip


def test_a_folder_is_known_by_the_content_of_its_files_and_not_by_their_times(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("not part of the model")
    first = backbone_identity(settings("folder", folder), tmp_path)
    assert sorted(first["files"]) == ["config.json", "model.safetensors"]
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert backbone_identity(settings("folder", folder), tmp_path) == first
    (folder / "model.safetensors").write_bytes(b"weightz")
    changed = backbone_identity(settings("folder", folder), tmp_path)
    assert changed["files"]["config.json"] == first["files"]["config.json"]
    assert changed["files"]["model.safetensors"] != first["files"]["model.safetensors"]


def test_a_damaged_memory_of_digests_costs_time_but_changes_nothing(tmp_path):
    weights = tmp_path / "m.gguf"
    weights.write_bytes(b"abc")
    first = backbone_identity(settings("gguf", weights), tmp_path)
    assert first["files"]["m.gguf"].startswith("ba7816bf")
    (tmp_path / "identities.json").write_text("[broken")
    assert backbone_identity(settings("gguf", weights), tmp_path) == first


def test_hub_models_are_their_commit_and_a_pinned_one_needs_no_network():
    commit = "a" * 40
    pinned = pin_revision(settings("hub", "org/model", revision=commit))
    assert pinned.revision == commit
    assert backbone_identity(pinned, None) == {"source": "hub", "id": "org/model", "revision": commit}
    local = settings("random", "r")
    assert pin_revision(local) is local


def test_a_missing_file_is_an_asset_error(tmp_path):
    with pytest.raises(AssetError, match="holds no model files"):
        backbone_identity(settings("gguf", tmp_path / "none.gguf"), tmp_path)


def test_identity_imports_no_torch():
    code = "import sys, dihal_core.backbones.identity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
