import json
import os
from pathlib import Path

import fsspec
import pytest

from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.files import MANIFEST
from dihal_core.inspection import inspect_store
from dihal_core.remote.home import remote_home
from dihal_core.remote.link import is_present, read_manifest, share
from dihal_core.store import STORE_FORMAT, StageRecord, resolve_home

KEY = "k" * 24


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_published_store_is_read_on_another_machine_byte_for_byte(address, machine, make_store):
    home, made = make_store(address)
    original = content(made.path)
    shared = share(home, made)
    assert shared.uri == f"{address}/corpus/{KEY}"
    assert (shared.digest, shared.counts) == (made.digest, made.counts)
    record = StageRecord.from_json(json.loads(json.dumps(shared.to_json())))

    machine("second")
    assert is_present(record)
    assert not (resolve_home(address) / "corpus" / KEY).exists()  # nothing was fetched to say so
    assert content(record.path) == original
    assert record.path.is_relative_to(resolve_home(address))


def test_a_store_is_finished_but_not_published_until_its_manifest_is_up(address, machine, make_store, objects_under):
    home, made = make_store(address)
    assert inspect_store(home, "corpus", KEY).state == "unpublished"
    share(home, made)
    assert inspect_store(home, "corpus", KEY).state == "intact"

    for path, filesystem in objects_under(address).items():  # what a kill before the last PUT leaves
        if path.endswith(f"{KEY}/{MANIFEST}"):
            filesystem.rm_file(path)
    machine("second")
    assert inspect_store(resolve_home(address), "corpus", KEY).state == "absent"
    machine("first")
    assert inspect_store(home, "corpus", KEY).state == "unpublished"
    share(home, made)
    machine("second")
    assert inspect_store(resolve_home(address), "corpus", KEY).state == "intact"


def test_a_torn_manifest_is_no_store_and_is_replaced(address, machine, make_store):
    home, made = make_store(address)
    share(home, made)
    filesystem, root = fsspec.core.url_to_fs(address)
    path = f"{root}/corpus/{KEY}/{MANIFEST}"
    filesystem.pipe_file(path, filesystem.cat_file(path)[:200])
    machine("second")
    there = inspect_store(resolve_home(address), "corpus", KEY)
    assert there.state == "damaged"
    assert "unreadable" in there.reason
    machine("first")
    assert share(home, made).digest == made.digest
    machine("second")
    assert inspect_store(resolve_home(address), "corpus", KEY).state == "intact"


def test_a_flipped_byte_is_found_when_the_store_is_fetched_and_the_store_is_withdrawn(
    address, machine, make_store, objects_under
):
    home, made = make_store(address)
    shared = share(home, made)
    for path, filesystem in objects_under(address).items():
        if path.endswith("a.bin"):
            filesystem.pipe_file(path, b"alphA" + filesystem.cat_file(path)[5:])
    machine("second")
    with pytest.raises(ArtifactError, match=r"a.bin.*SHA-256.*withdrawn"):
        shared.path  # noqa: B018
    assert inspect_store(resolve_home(address), "corpus", KEY).state == "absent"
    assert not (resolve_home(address) / "corpus" / KEY).exists()


def test_a_missing_and_a_shortened_object_are_found_without_fetching(address, machine, make_store, objects_under):
    home, made = make_store(address)
    share(home, made)
    files = objects_under(address)
    path = next(path for path in files if path.endswith("a.bin"))
    whole = files[path].cat_file(path)
    files[path].pipe_file(path, whole[:-1])
    machine("second")
    assert "499 bytes, not 500" in inspect_store(resolve_home(address), "corpus", KEY).reason
    files[path].rm_file(path)
    assert "a.bin is missing" in inspect_store(resolve_home(address), "corpus", KEY).reason
    machine("first")
    share(home, made)  # the machine that has it puts it back
    machine("second")
    assert inspect_store(resolve_home(address), "corpus", KEY).state == "intact"


def test_two_makers_of_one_key_leave_the_first_result_whole(address, machine, make_store):
    first_home, first = make_store(address)
    machine("second")
    second_home, second = make_store(address, first=b"other" * 100)
    assert second.digest != first.digest
    machine("first")
    share(first_home, first)
    machine("second")
    kept = share(second_home, second)
    assert kept.digest == first.digest
    assert (kept.path / "a.bin").read_bytes() == b"alpha" * 100  # the other copy was dropped, this one fetched


def test_equal_results_with_other_times_are_one_store(address, machine, make_store):
    home, first = make_store(address)
    share(home, first)
    machine("second")
    home, second = make_store(address)
    assert share(home, second).digest == first.digest
    assert (home / "corpus" / KEY).is_dir()  # its own copy is as good
    assert inspect_store(home, "corpus", KEY).state == "intact"


def test_a_damaged_copy_on_this_machine_is_dropped_and_fetched_again(address, machine, make_store):
    home, made = make_store(address)
    shared = share(home, made)
    (home / "corpus" / KEY / "a.bin").write_bytes(b"x" * 500)
    machine("first")
    assert inspect_store(home, "corpus", KEY).state == "intact"
    assert (shared.path / "a.bin").read_bytes() == b"alpha" * 100


def test_a_record_of_a_store_that_was_remade_with_other_bytes_is_refused(address, machine, make_store):
    home, made = make_store(address)
    share(home, made)
    stale = StageRecord("corpus", KEY, f"{address}/corpus/{KEY}", "0" * 64)
    with pytest.raises(ArtifactError, match="no longer has digest 000000000000"):
        stale.path  # noqa: B018


def test_an_interrupted_fetch_goes_on_with_the_files_it_has(address, machine, make_store):
    home, made = make_store(address)
    shared = share(home, made)
    machine("second")
    coming = resolve_home(address) / "corpus" / f"{KEY}.fetching"
    coming.mkdir(parents=True)
    (coming / "a.bin").write_bytes(b"alpha" * 100)
    (coming / "a.bin.77.tmp").write_bytes(b"half")
    os.utime(coming / "a.bin", (1e9, 1e9))
    assert (shared.path / "a.bin").stat().st_mtime == 1e9
    assert sorted(content(shared.path)) == sorted(content(home / "corpus" / KEY))


def test_the_manifest_can_be_read_without_the_store(address, machine, make_store):
    home, made = make_store(address)
    shared = share(home, made)
    machine("second")
    assert read_manifest(shared) == read_manifest(made)
    assert not (resolve_home(address) / "corpus" / KEY).exists()
    assert list(remote_home(address).manifests("corpus")) == [KEY]


def test_a_manifest_that_names_files_outside_its_store_is_refused(address, machine, make_store):
    home, made = make_store(address)
    shared = share(home, made)
    filesystem, root = fsspec.core.url_to_fs(address)
    path = f"{root}/corpus/{KEY}/{MANIFEST}"
    filesystem.pipe_file(path, filesystem.cat_file(path).replace(b'"a.bin"', b'"../../../a.bin"'))
    machine("second")
    assert "outside the store" in inspect_store(resolve_home(address), "corpus", KEY).reason
    with pytest.raises(ArtifactError, match="outside the store"):
        shared.path  # noqa: B018


def test_an_address_of_an_unknown_kind_is_refused_in_a_sentence(machine):
    with pytest.raises(ConfigError, match="nosuch://bucket/runs"):
        inspect_store(resolve_home("nosuch://bucket/runs"), "corpus", KEY)


def test_a_remote_store_of_a_newer_format_is_refused_and_left_alone(address, machine, make_store):
    home, made = make_store(address)
    share(home, made)
    objects, name = remote_home(address).objects, f"corpus/{KEY}/{MANIFEST}"
    objects.write(name, json.dumps({**json.loads(objects.read(name)), "format": STORE_FORMAT + 1}).encode())
    newer = objects.read(name)
    machine("second")
    with pytest.raises(ArtifactError, match=f"format {STORE_FORMAT + 1}.*reads format {STORE_FORMAT}: install"):
        inspect_store(resolve_home(address), "corpus", KEY)
    assert remote_home(address).objects.read(name) == newer
