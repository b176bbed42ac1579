import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dihal_core.corpus.wikitext import join_pages, read_wikitext, title_of
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import AssetError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.seeding import stream

WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra") for b in range(300)]


def rows_of(name, pages, words=60):
    """Rows as the published parquet files have them: blank rows around titles, a newline at the end of others."""
    draws = stream(0, "wikitext", name)
    rows = []
    for number in range(pages):
        body = [f" {' '.join(draws.choice(WORDS, words))} @-@ , end . \n" for _ in range(2)]
        rows += ["", f" = {name} {number} = \n", "", body[0], "", " = = History = = \n", "", body[1]]
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wikitext")
    for split, pages in (("test", 12), ("validation", 5)):
        table = pa.table({"text": rows_of(split, pages)})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    ("line", "title"),
    [
        (" = Robert Boulter = \n", "Robert Boulter"),
        ("= A =", "A"),
        (" = 2 @.@ 5 = ", "2 @.@ 5"),
        (" = = Career = = \n", None),
        (" = = = 2000 – 2005 = = = \n", None),
        (" = 3 = x = \n", None),
        (" x = 3 = \n", None),
        (" = \n", None),
        (" = = \n", None),
        ("", None),
    ],
)
def test_only_a_single_pair_of_equals_signs_is_a_title(line, title):
    assert title_of(line) == title


def test_articles_are_split_at_level_1_titles_between_blank_rows_only():
    rows = ["", " = First = \n", "", " text \n", " = 5 = \n", " more \n", "", " = = Sub = = \n", "", " end \n"]
    rows += ["", " = Second = \n", "", " body \n", ""]
    pages = list(join_pages(rows))
    assert [title for title, _ in pages] == ["First", "Second"]
    assert pages[0][1] == "= First =\n\ntext\n= 5 =\nmore\n\n= = Sub = =\n\nend\n"
    assert pages[1][1] == "= Second =\n\nbody\n"


def test_rows_before_the_first_title_and_empty_input_are_handled():
    assert [title for title, _ in join_pages(["stray \n", "", " = A = \n", "", "x"])] == ["", "A"]
    assert list(join_pages(["", " ", ""])) == []


def test_the_published_splits_are_the_parts(folder):
    for part, split, pages in (("test", "test", 12), ("development", "validation", 5)):
        source, origin, facts = read_wikitext(str(folder), part)
        assert [d.title for d in source.documents] == [f"{split} {n}" for n in range(pages)]
        assert len({d.identity for d in source.documents}) == pages
        assert (facts["split"], facts["documents"], facts["detokenised"]) == (split, pages, False)
        assert origin.version == "local files"


def test_the_original_raw_files_give_the_same_documents(folder, tmp_path):
    (tmp_path / "wiki.test.raw").write_text("\n".join(row.removesuffix("\n") for row in rows_of("test", 12)))
    left, right = (read_wikitext(str(place), "test")[0].documents for place in (folder, tmp_path))
    assert [d.text for d in left] == [d.text for d in right]


def test_a_folder_without_the_split_and_a_split_without_articles_are_named(tmp_path):
    with pytest.raises(AssetError, match=r"has neither test-\*\.parquet nor wiki\.test\.raw; download them"):
        read_wikitext(str(tmp_path), "test")
    pq.write_table(pa.table({"text": ["", ""]}), tmp_path / "test-00000.parquet")
    with pytest.raises(AssetError, match="holds no article"):
        read_wikitext(str(tmp_path), "test")


def build(home, folder, **overrides):
    values = {
        "evaluation": "wikitext103",
        "evaluation_url": str(folder),
        "num_eval_wiki": 1000,
        "num_sequences": 64,
        **overrides,
    }
    settings = load_study("smoke", overrides={f"corpus.{name}": value for name, value in values.items()})
    return ensure(make_request("corpus", settings, {"assets": {}}, home))


def test_the_whole_split_becomes_windows_that_know_their_document(folder, tmp_path):
    record = build(tmp_path, folder)
    facts = json.loads((record.path / "corpus.json").read_bytes())
    windows = load_windows(record, "eval_wiki")
    rows = [json.loads(line) for line in (record.path / "documents.jsonl").read_text().splitlines()]
    pages = {row["document"]: row["title"] for row in rows if row["split"] == "eval_wiki"}
    assert sorted(pages.values()) == sorted(f"test {n}" for n in range(12))
    assert set(windows.document_N.tolist()) == set(pages)
    text_tokens = int(windows.lengths_N.sum()) - len(windows)
    texts = [document.text for document in read_wikitext(str(folder), "test")[0].documents]
    dropped = len(windows.lengths_N) and 16 * len(texts)  # a remainder below 16 tokens is dropped
    assert sum(len(text.encode()) for text in texts) - dropped <= text_tokens
    assert facts["evaluation"]["set"] == "wikitext103"
    assert (
        f"eval_wiki has {len(windows)} windows of the 1000 asked for; that is the whole published split"
        in facts["missing"]
    )


def test_fewer_windows_spread_over_all_documents(folder, tmp_path):
    windows = load_windows(build(tmp_path, folder, num_eval_wiki=12), "eval_wiki")
    assert len(set(windows.document_N.tolist())) >= 11


def test_development_and_test_share_no_document(folder, tmp_path):
    titles = []
    for part in ("test", "development"):
        record = build(tmp_path / part, folder, evaluation_part=part)
        rows = [json.loads(line) for line in (record.path / "documents.jsonl").read_text().splitlines()]
        titles.append({row["title"] for row in rows if row["split"] == "eval_wiki"})
    assert all(titles)
    assert not titles[0] & titles[1]
