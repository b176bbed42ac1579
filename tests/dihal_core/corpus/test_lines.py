import gzip
import hashlib
import io
import json
import tracemalloc

import pytest
from backports import zstd

from dihal_core.corpus import lines, unpack
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
        zstd.compress(GOOD),
        zstd.compress(GOOD[:50]) + zstd.compress(GOOD[50:]),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zstd.compress(GOOD),
        b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\n\xef\xbb\xbf", 2),
    ],
    ids=[
        *("plain", "gzip", "members", "padded", "bom", "gzip-bom", "crlf", "no-last-newline"),
        *("zstd", "frames", "skippable-frame", "bom-in-every-part"),
    ],
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
        (b"\r", "blank_line"),
        (b'{"id": ["a"], "text": "t", "source": "s"}', "id_not_a_string"),
        (b'{"id": "a", "text": "t", "source": {}}', "source_not_a_string"),
        (b'{"id": "a", "text": "", "source": "s"}', "empty_text"),
        (b'{"id": "a", "text": "\xe2\x80\xa8\xc2\xa0", "source": "s"}', "empty_text"),
        (b'{"id": "a", "text": "\xed\xa0\x80", "source": "s"}', "bad_utf8"),
        (b'{"id": "a", "text": "t", "source": "s"} {}', "bad_json"),
        (b'{"id": "a\x00b"', "bad_json"),
        (b"null", "not_an_object"),
        (b'{"text": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", "nested_too_deep"),
    ],
)
def test_each_kind_of_bad_line_has_its_reason(line, reason):
    assert parse_line(line) == reason


@pytest.mark.parametrize(
    "odd",
    [b"18446744073709551616", b"-" + b"9" * 400, b"1e999", b"NaN", b"-Infinity", b'{"a": "\\ud800"}', b"[[[[[]]]]]"],
)
def test_what_orjson_refuses_in_another_field_does_not_cost_the_document(odd):
    found = parse_line(b'{"id": "a", "text": "t", "source": "s", "metadata": ' + odd + b"}")
    assert (found.id, found.text, found.source) == ("a", "t", "s")


def test_control_tokens_and_placeholders_are_plain_text():
    text = "<|endoftext|> <s> </s> |||EMAIL_ADDRESS||| <|im_start|>"
    assert parse_line(json.dumps(row(1, text=text)).encode()).text == text


def test_bad_lines_are_counted_with_their_offset_and_the_rest_is_kept():
    first, last = dump(row(0)), dump(row(1))
    ids, report = read(first + b"{broken\n" + b"\n" + dump(row(9, text="")) + last)
    assert ids == ["d0", "d1"]
    assert report.rejects == {"bad_json": 1, "blank_line": 1, "empty_text": 1}
    assert report.offsets["bad_json"] == [len(first)]
    assert report.damaged == 1


def test_a_truncated_gzip_keeps_its_readable_part():
    rows = [row(i, text=hashlib.sha256(str(i).encode()).hexdigest() * 4) for i in range(400)]
    whole = gzip.compress(dump(*rows))
    ids, report = read(whole[: len(whole) // 2])
    assert 100 < len(ids) < 300
    assert ids == [f"d{i}" for i in range(len(ids))]
    assert report.file_damage == "truncated_gzip"
    assert report.damage_offset == report.bytes_plain > len(dump(*rows[: len(ids)]))
    assert report.damaged == 0  # no whole line is damaged


def test_a_flipped_bit_keeps_what_came_before():
    rows = [row(i, text=hashlib.sha256(str(i).encode()).hexdigest() * 4) for i in range(400)]
    data = bytearray(gzip.compress(dump(*rows)))
    data[len(data) // 2] ^= 0x10
    ids, report = read(bytes(data))
    assert ids[:100] == [f"d{i}" for i in range(100)]
    assert report.file_damage == "corrupt_gzip"
    assert report.damage_offset <= len(dump(*rows))


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
        (b"\x28\xb5\x2f\xfd....", "corrupt_zstd"),
        (b"\x28\xb5\x2f\xfd", "truncated_zstd"),
        (gzip.compress(GOOD, mtime=0)[:5], "truncated_gzip"),
        (b"\x1f\x8bgarbage", "corrupt_gzip"),
    ],
)
def test_a_file_that_is_no_shard_is_named_and_gives_nothing(data, damage):
    ids, report = read(data)
    assert ids == []
    assert report.file_damage == damage
    assert report.damage_offset == 0


def test_a_giant_line_is_skipped_to_its_end(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1_000)
    ids, report = read(dump(row(0)) + dump(row(1, text="x" * 50_000)) + dump(row(2)))
    assert ids == ["d0", "d2"]
    assert report.rejects == {"line_too_long": 1}
    assert report.lines == 3


class Endless:
    """A file of one line of so many bytes, never held as a whole."""

    def __init__(self, head, size, tail):
        self.pieces = iter([head, *[b"x" * (1 << 20)] * (size >> 20), tail])

    def read(self, size):
        return next(self.pieces, b"")


def test_a_line_of_200_megabytes_costs_bounded_memory_and_only_itself():
    start = b'{"id": "giant", "text": "'
    handle = Endless(dump(row(0)) + start, 200 << 20, b'", "source": "s"}\n' + dump(row(1)))
    report = ReadReport("shard")
    tracemalloc.start()
    ids = [d.id for d in read_documents(handle, report)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids == ["d0", "d1"]
    assert report.rejects == {"line_too_long": 1}
    assert report.offsets == {"line_too_long": [len(dump(row(0)))]}
    assert peak < 2 * lines.MAX_LINE_BYTES


def test_a_line_at_the_limit_is_judged_by_its_length_and_not_by_the_blocks_it_came_in(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", len(dump(row(1))) - 1)
    for block in (7, 64, 1 << 20):
        monkeypatch.setattr(lines, "BLOCK_BYTES", block)
        ids, report = read(dump(row(1), row(10), row(2)))
        assert ids == ["d1", "d2"]
        assert report.offsets == {"line_too_long": [len(dump(row(1)))]}


def test_only_so_many_offsets_are_kept_but_all_are_counted():
    _, report = read(b"{\n" * 1000)
    assert report.rejects == {"bad_json": 1000}
    assert report.offsets["bad_json"] == list(range(0, 40, 2))


def test_a_small_file_that_inflates_a_thousandfold_is_read_in_steps(monkeypatch):
    monkeypatch.setattr(unpack, "MAX_INFLATED_BYTES", 4096)
    ids, report = read(gzip.compress(dump(row(0, text="y" * 200_000), row(1))))
    assert ids == ["d0", "d1"]
    assert report.damaged == 0


def test_a_report_survives_json():
    _, report = read(dump(row(0)) + b"{broken\n")
    assert ReadReport.from_json(json.loads(json.dumps(report.to_json()))) == report
