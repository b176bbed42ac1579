import gzip
import hashlib
import io
import json

import pytest

from dihal_core.corpus import lines
from dihal_core.corpus.lines import ReadReport, parse_line, read_documents


def row(number, **changes):
    return {"id": f"d{number}", "text": f"text number {number}", "source": "wiki", "added": "2024", **changes}


def dump(*rows):
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def read(data, limit=None):
    report = ReadReport("shard")
    documents = list(read_documents(io.BytesIO(data), report, limit))
    return [d.id for d in documents], report


GOOD = dump(*(row(i) for i in range(5)))
IDS = [f"d{i}" for i in range(5)]


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        gzip.compress(GOOD),
        gzip.compress(GOOD[:50]) + gzip.compress(GOOD[50:]),
        gzip.compress(GOOD) + b"\0" * 512,
        b"\xef\xbb\xbf" + GOOD,
        gzip.compress(b"\xef\xbb\xbf" + GOOD),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.rstrip(b"\n"),
    ],
    ids=["plain", "gzip", "members", "padded", "bom", "gzip-bom", "crlf", "no-last-newline"],
)
def test_healthy_files_are_read_whole_whatever_their_packing(data):
    ids, report = read(data)
    assert ids == IDS
    assert (report.lines, report.accepted, report.damaged) == (5, 5, 0)
    assert report.bytes_read == len(data)
    assert report.sha256 == hashlib.sha256(data).hexdigest()


def test_only_a_newline_ends_a_line():
    ids, report = read(json.dumps(row(1, text="a\u2028b\u0085c\x0bd"), ensure_ascii=False).encode() + b"\n")
    assert ids == ["d1"]
    assert report.damaged == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json", "bad_json"),
        (b'{"id": "a", "text": "b", "source": "c"', "bad_json"),
        (b"\xff\xfe{}", "bad_utf8"),
        (b"[1, 2]", "not_an_object"),
        (b"[" * 100_000, "nested_too_deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "bad_json"),
        (b'{"text": "t", "source": "s"}', "missing_id"),
        (b'{"id": "a", "source": "s"}', "missing_text"),
        (b'{"id": "a", "text": "t"}', "missing_source"),
        (b'{"id": 7, "text": "t", "source": "s"}', "id_not_a_string"),
        (b'{"id": "a", "text": null, "source": "s"}', "text_not_a_string"),
        (b'{"id": "a", "text": "\\ud800 x", "source": "s"}', "lone_surrogate"),
        (b'{"id": "a", "text": " \\n", "source": "s"}', "empty_text"),
        (b"   ", "blank_line"),
    ],
)
def test_each_kind_of_bad_line_has_its_reason(line, reason):
    assert parse_line(line) == reason


def test_bad_lines_are_counted_with_their_offset_and_the_rest_is_kept():
    first, last = dump(row(0)), dump(row(1))
    ids, report = read(first + b"{broken\n" + b"\n" + dump(row(9, text="")) + last)
    assert ids == ["d0", "d1"]
    assert report.rejects == {"bad_json": 1, "blank_line": 1, "empty_text": 1}
    assert report.examples["bad_json"] == len(first)
    assert report.damaged == 1


def test_a_truncated_gzip_keeps_its_readable_part():
    rows = [row(i, text=hashlib.sha256(str(i).encode()).hexdigest() * 4) for i in range(400)]
    whole = gzip.compress(dump(*rows))
    ids, report = read(whole[: len(whole) // 2])
    assert 100 < len(ids) < 300
    assert ids == [f"d{i}" for i in range(len(ids))]
    assert report.file_damage == "truncated_gzip"
    assert report.damaged == 1


def test_a_flipped_bit_keeps_what_came_before():
    rows = [row(i, text=hashlib.sha256(str(i).encode()).hexdigest() * 4) for i in range(400)]
    data = bytearray(gzip.compress(dump(*rows)))
    data[len(data) // 2] ^= 0x10
    ids, report = read(bytes(data))
    assert ids[:100] == [f"d{i}" for i in range(100)]
    assert report.damaged >= 1


def test_a_prefix_is_no_damage_and_drops_only_the_line_it_cuts():
    rows = [row(i, text=hashlib.sha256(str(i).encode()).hexdigest() * 4) for i in range(400)]
    whole = gzip.compress(dump(*rows))
    ids, report = read(whole, limit=len(whole) // 2)
    assert 100 < len(ids) < 300
    assert report.bytes_read == len(whole) // 2
    assert report.damaged == 0
    plain_ids, plain = read(dump(*rows), limit=1000)
    assert len(plain_ids) == 3
    assert plain.damaged == 0


@pytest.mark.parametrize(
    ("data", "damage"),
    [
        (b"", "empty_file"),
        (b"<!DOCTYPE html><html>404</html>", "html_instead_of_a_shard"),
        (b"\n <html>", "html_instead_of_a_shard"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git_lfs_pointer"),
        (b"\x28\xb5\x2f\xfd....", "zstandard_is_not_read"),
        (b"\x1f\x8bgarbage", "corrupt_gzip"),
    ],
)
def test_a_file_that_is_no_shard_is_named_and_gives_nothing(data, damage):
    ids, report = read(data)
    assert ids == []
    assert report.file_damage == damage
    assert report.damaged == 1


def test_a_giant_line_is_skipped_to_its_end(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1_000)
    ids, report = read(dump(row(0)) + dump(row(1, text="x" * 50_000)) + dump(row(2)))
    assert ids == ["d0", "d2"]
    assert report.rejects == {"line_too_long": 1}
    assert report.lines == 3


def test_a_small_file_that_inflates_a_thousandfold_is_read_in_steps(monkeypatch):
    monkeypatch.setattr(lines, "MAX_INFLATED_BYTES", 4096)
    ids, report = read(gzip.compress(dump(row(0, text="y" * 200_000), row(1))))
    assert ids == ["d0", "d1"]
    assert report.damaged == 0


def test_a_report_survives_json():
    _, report = read(dump(row(0)) + b"{broken\n")
    assert ReadReport(**json.loads(json.dumps(report.to_json()))) == report
