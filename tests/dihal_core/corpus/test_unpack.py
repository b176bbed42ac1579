import gzip
import zlib

import pytest
from backports import zstd

from dihal_core.corpus import unpack as module
from dihal_core.corpus.reports import ReadReport
from dihal_core.corpus.unpack import kind_of, unpack
from dihal_core.seeding import stream

CHECKED = {zstd.CompressionParameter.checksum_flag: 1}
"""As the zstd command does: without it a flipped bit inside literals cannot be seen by anyone."""
PACK = {"gzip": lambda data: gzip.compress(data, mtime=0), "zstd": lambda data: zstd.compress(data, options=CHECKED)}
NOISE = stream(0, "test", "unpack").bytes(600_000).hex().encode()


def run(kind, data, block=1 << 20):
    report = ReadReport("file")
    pieces = [data[i : i + block] for i in range(0, len(data), block)]
    flows = list(unpack(kind, pieces, report))
    return b"".join(plain for plain, _ in flows), [flow for _, flow in flows if flow != "more"], report


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("block", [1, 1000, 1 << 20])
def test_members_are_unpacked_whole_however_the_bytes_arrive(kind, block):
    data = NOISE[: 3000 if block == 1 else None]
    packed = PACK[kind](data[:1000]) + PACK[kind](b"") + PACK[kind](data[1000:])
    assert kind_of(packed) == kind
    plain, flows, report = run(kind, packed, block)
    assert plain == data
    assert flows == ["end"]
    assert (report.file_damage, report.bytes_plain) == (None, len(data))


@pytest.mark.parametrize("kind", PACK)
def test_a_cut_file_gives_what_it_holds_and_says_where_it_stops(kind):
    packed = PACK[kind](NOISE)
    plain, flows, report = run(kind, packed[: len(packed) // 2])
    assert NOISE.startswith(plain)
    assert len(plain) > len(NOISE) // 4
    assert flows == []
    assert (report.file_damage, report.damage_offset) == (f"truncated_{kind}", len(plain))


@pytest.mark.parametrize("kind", PACK)
def test_damage_costs_one_member_and_the_next_one_is_found(kind):
    first, second, third = (NOISE[i * 100_000 : (i + 1) * 100_000] for i in range(3))
    broken = flipped(PACK[kind](second), 8000)
    plain, flows, report = run(kind, PACK[kind](first) + broken + PACK[kind](third))
    assert plain.startswith(first)
    assert plain.endswith(third)
    assert flows == ["break", "end"]
    assert report.file_damage == f"corrupt_{kind}"
    assert len(first) <= report.damage_offset <= len(first + second)


@pytest.mark.parametrize("kind", PACK)
def test_text_before_the_damage_is_kept_to_within_a_few_kilobytes(kind):
    packed = PACK[kind](NOISE)
    plain, _, report = run(kind, packed[: len(packed) // 2] + b"\xff" * 5000 + packed[len(packed) // 2 + 5000 :])
    agreed = next((i for i, (a, b) in enumerate(zip(plain, NOISE, strict=False)) if a != b), len(plain))
    assert agreed > len(NOISE) // 2 - (300_000 if kind == "zstd" else 4_000)  # a zstd block is 128 KiB of text
    assert report.file_damage == f"corrupt_{kind}"


@pytest.mark.parametrize("kind", PACK)
def test_a_wrong_checksum_is_damage_but_costs_no_text(kind):
    packed = PACK[kind](NOISE)
    plain, flows, report = run(kind, flipped(packed, len(packed) - 6 if kind == "gzip" else len(packed) - 2))
    assert len(NOISE) - len(plain) <= module.ZSTD_STEP_BYTES
    assert NOISE.startswith(plain)
    assert report.file_damage == f"corrupt_{kind}"
    assert "end" not in flows


def test_noise_full_of_false_beginnings_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "MAX_RESTARTS", 5)
    _, flows, report = run("gzip", b"\x1f\x8b\x08\xff" * 100_000)
    assert flows == ["break"] * 6
    assert report.file_damage == "corrupt_gzip"


@pytest.mark.parametrize("kind", PACK)
def test_no_step_gives_more_than_the_bound(kind, monkeypatch):
    monkeypatch.setattr(module, "MAX_INFLATED_BYTES", 10_000)
    report = ReadReport("bomb")
    sizes = [len(plain) for plain, _ in unpack(kind, [PACK[kind](b"y" * 3_000_000)], report)]
    assert sum(sizes) == 3_000_000
    assert max(sizes) < 10_000 + module.ZSTD_STEP_BYTES


def test_zlib_streams_and_other_packings_are_not_taken_for_gzip():
    assert kind_of(zlib.compress(b"x")) == "plain"
    assert kind_of(b"BZh9") == "plain"
    assert kind_of(b"") == "empty_file"
    assert kind_of(b"\xef\xbb\xbf\r\n<!DOCTYPE html>") == "html_instead_of_a_shard"
    assert kind_of(b"version https://git-lfs.github.com/spec/v1\n") == "git_lfs_pointer"
