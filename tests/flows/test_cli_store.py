"""`dihal verify` and `dihal archive` on a real store of the smoke profile."""

import json
import shutil

import pytest
import zarr

from dihal_core.activations.audit import _changed_since
from dihal_core.activations.names import GROUP, chunk_file
from dihal_core.files import MANIFEST, dump_json, hash_files, store_digest
from dihal_core.profiles import load_study
from dihal_core.provenance import package_version
from dihal_core.requests import stage_code
from dihal_core.runner import ensure
from dihal_core.study import pin_settings, request_for
from flows.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("verify")
    settings = pin_settings(load_study("smoke"), ask_hub=False)
    records: dict = {"assets": {}}
    for stage in ("corpus", "activations"):
        records[stage] = ensure(request_for(stage, settings, home, records))
    return home, records


@pytest.fixture
def copied(made, tmp_path):
    home, records = made
    shutil.copytree(home, tmp_path / "runs")
    return tmp_path / "runs", records


def test_verify_says_what_it_hashed_and_what_it_recomputed(made, capsys):
    home, records = made
    assert main(["verify", "--home", str(home), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert str(records["activations"].path) in said
    assert "re-hashed; every SHA-256 and the digest" in said
    assert "32 of 96 pool rows (33.33%) at 5 layers and 8 whole windows at 3 layers, drawn with seed 3" in said
    assert main(["verify", "--home", str(home), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["digest"] == records["activations"].digest
    assert facts["rows"] >= 32


def test_other_stores_are_re_hashed(made, capsys):
    home, records = made
    assert main(["verify", f"corpus/{records['corpus'].key}", "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "re-hashed" in said
    assert "recomputed" not in said


def test_a_store_that_is_not_there_is_a_sentence(made, tmp_path, capsys):
    home, _ = made
    assert main(["verify", "nothing", "--home", str(home)]) == 2
    assert "store 'nothing' under" in capsys.readouterr().err
    assert main(["verify", "--home", str(tmp_path)]) == 2
    assert "no finished store of hidden states" in capsys.readouterr().err


def test_a_flipped_bit_is_found_by_the_hashes(copied, capsys):
    home, records = copied
    folder = home / "activations" / records["activations"].key
    path = chunk_file(folder / GROUP, "geom/state_02", 3, 2)
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    assert main(["verify", str(folder), "--home", str(home)]) == 2
    assert "geom/state_02/c/3/0 was changed after it was written" in capsys.readouterr().err


def test_states_the_model_did_not_make_are_found_although_every_hash_agrees(copied, capsys):
    home, records = copied
    folder = home / "activations" / records["activations"].key
    root = zarr.open_group(folder / GROUP, mode="r+")
    root["geom/state_03"][:] = root["geom/state_03"][:] ^ 1
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"] = hash_files(folder)
    manifest["digest"] = store_digest(manifest["files"])
    (folder / MANIFEST).write_bytes(dump_json(manifest))
    assert main(["verify", str(folder), "--home", str(home), "--no-model"]) == 0
    assert main(["verify", str(folder), "--home", str(home)]) == 2
    assert "stored geom/state_03 differs from the recomputed state at sequence" in capsys.readouterr().err


def test_a_dump_whose_corpus_is_gone_says_so(copied, capsys):
    home, records = copied
    shutil.rmtree(home / "corpus")
    folder = home / "activations" / records["activations"].key
    assert main(["verify", str(folder), "--home", str(home)]) == 2
    assert "no intact corpus store with digest" in capsys.readouterr().err


def test_archive_writes_a_smaller_complete_copy_once(made, tmp_path, capsys):
    home, records = made
    place = tmp_path / "cold"
    assert main(["archive", str(place), "--home", str(home)]) == 0
    assert "every chunk read back" in capsys.readouterr().out
    assert (place / f"{records['activations'].key}.zarr" / "zarr.json").is_file()
    assert main(["archive", str(place), "--home", str(home)]) == 2
    assert "complete archive already" in capsys.readouterr().err
    assert main(["archive", str(place / "x"), "--home", str(home), "--codec", "zip"]) == 2
    assert "unknown codec 'zip'" in capsys.readouterr().err
    assert main(["archive", str(place), "--home", str(home), "--store", f"corpus/{records['corpus'].key}"]) == 2
    assert "holds no hidden states" in capsys.readouterr().err


def test_a_dump_of_other_code_or_libraries_is_not_blamed_on_the_machine():
    made = {"code": dict(stage_code("activations")), "libraries": {"numpy": package_version("numpy")}}
    assert _changed_since(made) == ""
    made["libraries"]["numpy"] = "0.1"
    made["code"]["dihal_core.backbones.loading"] = "as it was"
    changed = _changed_since(made)
    assert changed.startswith("dihal_core.backbones.loading, numpy 0.1 -> ")


@pytest.mark.parametrize("place", ["foo://x", "/proc/nope"])
def test_an_archive_that_cannot_be_is_a_sentence(made, place, capsys):
    home, _ = made
    assert main(["archive", place, "--home", str(home)]) == 2
    printed = capsys.readouterr().err
    assert f"archive {place}" in printed
    assert len(printed.strip().splitlines()) == 1
