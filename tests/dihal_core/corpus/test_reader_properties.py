"""What must hold of the reader and the choice of documents for any input."""

import gzip
import io
import json

from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from dihal_core.corpus import lines
from dihal_core.corpus.candidates import Candidates
from dihal_core.corpus.documents import Document
from dihal_core.corpus.lines import parse_line, read_documents
from dihal_core.corpus.reports import NOT_DAMAGE, ReadReport
from dihal_core.profiles import load_study

CORPUS = load_study("smoke").corpus
PACKINGS = st.sampled_from([bytes, gzip.compress, zstd.compress])
GOOD_LINES = st.builds(
    lambda name, text, source, extra: {"id": name, "text": f"{text}.", "source": source, "metadata": extra},
    st.text(max_size=8),
    st.text(max_size=40),
    st.text(max_size=4),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5
    ),
)  # st.text gives no lone surrogates
BAD_LINES = st.binary(max_size=40).filter(lambda b: b"\n" not in b and isinstance(parse_line(b), str))


def read(data, limit=None, block=1 << 20):
    report = ReadReport("shard")
    whole, lines.BLOCK_BYTES = lines.BLOCK_BYTES, block
    try:
        return list(read_documents(io.BytesIO(data), report, limit)), report
    finally:
        lines.BLOCK_BYTES = whole


def check_sums(documents, report):
    assert report.accepted == len(documents)
    assert report.lines == report.accepted + sum(report.rejects.values())
    assert report.damaged == sum(n for reason, n in report.rejects.items() if reason not in NOT_DAMAGE)
    assert set(report.offsets) == set(report.rejects)
    assert (report.file_damage is None) == (report.damage_offset is None)
    assert ReadReport.from_json(json.loads(json.dumps(report.to_json()))) == report


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"{", b"\xef\xbb\xbf"]))
def test_random_bytes_never_raise_and_the_counts_add_up(noise, head):
    check_sums(*read(head + noise))


@given(st.binary(min_size=1, max_size=20), st.floats(0, 1), st.sampled_from([gzip.compress, zstd.compress]))
@settings(max_examples=60)
def test_bytes_changed_anywhere_in_a_packed_file_never_raise(patch, where, pack):
    data = pack(
        b"".join(json.dumps({"id": str(i), "text": "t" * i, "source": "s"}).encode() + b"\n" for i in range(40))
    )
    place = int(where * len(data))
    check_sums(*read(data[:place] + patch + data[place + len(patch) :]))


@given(
    st.lists(st.tuples(GOOD_LINES, st.lists(BAD_LINES, max_size=2)), max_size=8),
    PACKINGS,
    st.sampled_from([b"\n", b"\r\n"]),
    st.integers(16, 64),
)
@settings(max_examples=60)
def test_every_good_line_among_bad_ones_is_recovered(rows, pack, end, block):
    data = b""
    for good, bad in rows:
        data += json.dumps(good, ensure_ascii=False).encode() + end + b"".join(line + b"\n" for line in bad)
    documents, report = read(pack(data), block=block)
    check_sums(documents, report)
    assert [(d.id, d.text, d.source) for d in documents] == [(g["id"], g["text"], g["source"]) for g, _ in rows]
    assert sum(report.rejects.values()) == sum(len(bad) for _, bad in rows)
    for reason, offsets in report.offsets.items():
        for offset in offsets:
            assert parse_line(data[offset:].split(b"\n")[0]) == reason


@given(st.integers(1, 3000), PACKINGS)
@settings(max_examples=40)
def test_a_prefix_gives_a_prefix_of_the_documents_and_no_damage(limit, pack):
    rows = [{"id": str(i), "text": f"{i * i} {i}", "source": "s"} for i in range(60)]
    data = pack(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    documents, report = read(data, limit)
    check_sums(documents, report)
    assert [d.id for d in documents] == [str(i) for i in range(len(documents))]
    assert report.damaged == 0
    assert report.bytes_read == min(limit, len(data))
    assert report.file_damage is None


@given(st.lists(st.integers(0, 400), unique=True, max_size=60), st.randoms(use_true_random=False), st.integers(1, 30))
@settings(max_examples=40)
def test_the_choice_of_candidates_depends_on_no_order(numbers, random, budget):
    documents = [Document(f"d{n}", f"text {n} " * (1 + n % 40), "wiki") for n in numbers]
    kept = []
    for order in (documents, random.sample(documents, len(documents))):
        candidates = Candidates((budget, 4, 4), CORPUS, 7, "wiki")
        for document in order:
            candidates.offer(document)
        kept.append([document.id for document in candidates.kept()])
    assert kept[0] == kept[1]
    assert set(kept[0]) <= {document.id for document in documents}
