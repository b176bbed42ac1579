import errno
from pathlib import Path

import pytest

from dihal_core.errors import ResourceError
from dihal_core.files import dump_json, full_disk, hash_files, require_disk, store_digest, write_atomically


def test_a_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "deep" / "file.json"
    write_atomically(target, b"first")
    target.with_name("other").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(target.with_name("other"), b"second")
    assert target.read_bytes() == b"first"


def test_the_digest_covers_names_and_contents_but_no_commit_record(tmp_path):
    for name, data in (("a.bin", b"1"), ("commits/u0.json", b"2"), ("manifest.json", b"3"), ("x.tmp", b"4")):
        write_atomically(tmp_path / name, data)
    files = hash_files(tmp_path)
    assert sorted(files) == ["a.bin", "commits/u0.json"]
    before = store_digest(files)
    write_atomically(tmp_path / "commits" / "u0.json", b"5")
    assert store_digest(hash_files(tmp_path)) == before
    (tmp_path / "a.bin").rename(tmp_path / "b.bin")
    assert store_digest(hash_files(tmp_path)) != before


def test_json_is_sorted_and_refuses_what_json_has_no_word_for():
    assert dump_json({"b": 1, "a": "\u00e9"}) == '{\n "a": "\u00e9",\n "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        dump_json({"loss": float("inf")})


def test_only_errors_of_a_disk_that_is_used_up_become_its_sentence():
    told = full_disk(OSError(errno.EDQUOT, "Disk quota exceeded"), Path("/data"), "sweep L03")
    assert isinstance(told, ResourceError)
    assert "sweep L03: the disk under /data is full" in str(told)
    assert full_disk(OSError(errno.EACCES, "Permission denied"), Path("/data"), "sweep L03") is None


def test_a_store_that_does_not_fit_is_refused_with_both_sizes(tmp_path):
    with pytest.raises(ResourceError, match=r"needs 1000000000\.00 GB"):
        require_disk(tmp_path / "not" / "yet", 10**18, "the dump")
