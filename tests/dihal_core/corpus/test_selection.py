from collections import Counter

import pytest

from dihal_core.backbones.tokenizers import byte_tokenizer, pad_id, separator_id
from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import Document, group_permille
from dihal_core.corpus.selection import evaluation_part, select
from dihal_core.corpus.sources import Pool, Source
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.profiles import load_study
from dihal_core.seeding import stream

BACKBONE = load_study("smoke").backbone
TOKENIZER = byte_tokenizer(BACKBONE)
VOCABULARY = [f"w{i}" for i in range(5000)]


def sentence(name, count=60):
    return " ".join(stream(0, "test", name).choice(VOCABULARY, count))


def source(name, documents, share=1.0):
    return Source(name, "made up", "none", share, tuple(documents))


def article(name, number, text=None, **metadata):
    return Document(f"{name}{number}", text or sentence(f"{name}{number}"), name, metadata=metadata)


def draw(pool, seed=0, **overrides):
    values = {
        "kind": "builtin",
        "num_sequences": 40,
        "num_heldout": 6,
        "num_eval_wiki": 4,
        "window_tokens": 48,
        "min_window_tokens": 16,
        "max_windows_per_document": 100,
        **overrides,
    }
    separator, pad = separator_id(TOKENIZER, BACKBONE), pad_id(TOKENIZER, BACKBONE)
    encoder = WindowEncoder(TOKENIZER, separator, pad, 48, 16, seed)
    return select(pool, CorpusSettings(**values), seed, encoder, lambda done, total: None)


def texts(selection, split):
    return {entry.document.id for entry, _ in selection.picks[split]}


def held(name, numbers):
    return next(n for n in numbers if group_permille(name, f"{name}{n}") < 60)


@pytest.fixture
def articles():
    return [article("wiki", number) for number in range(200)]


@pytest.fixture
def pages():
    return source("eval_wiki", [article("eval_wiki", n, title=f"Page {n}") for n in range(6)], share=0.0)


def test_the_order_of_documents_changes_nothing(articles, pages):
    forward = draw(Pool((source("wiki", articles),), pages, ()))
    backward = draw(Pool((source("wiki", articles[::-1]),), pages, ()))
    for split in ("train", "heldout", "eval_wiki"):
        left, right = ([(e.identity, r) for e, r in s.picks[split]] for s in (forward, backward))
        assert left == right


def test_a_training_document_that_repeats_a_held_out_one_is_dropped(articles, pages):
    number = held("wiki", range(200))
    copies = [Document(f"copy{i}", articles[number].text.upper(), "wiki") for i in range(30)]
    train_copies = [c for c in copies if group_permille("wiki", c.id) >= 60]
    only = [articles[number], *train_copies, *[a for a in articles if group_permille("wiki", a.id) >= 60]]
    selection = draw(Pool((source("wiki", only),), None, ()), num_heldout=2, num_eval_wiki=0, num_sequences=900)
    assert selection.rejects["wiki"]["duplicate"] == len(train_copies)
    assert not texts(selection, "train") & {c.id for c in train_copies}


def test_a_held_out_document_inside_a_longer_training_text_is_found_by_its_13grams(articles):
    number = held("wiki", range(200))
    hosts = [n for n in range(200) if group_permille("wiki", f"wiki{n}") >= 60]
    embedded = {n: article("wiki", n, sentence(f"long{n}", 800) + " " + articles[number].text) for n in hosts[:1]}
    documents = [embedded.get(n, a) for n, a in enumerate(articles)]
    selection = draw(
        Pool((source("wiki", documents),), None, ()),
        num_heldout=40,
        num_eval_wiki=0,
        num_sequences=1200,
    )
    assert f"wiki{number}" not in texts(selection, "heldout")
    assert selection.overlap["heldout_documents_dropped"] == 1
    assert selection.rejects["wiki"] == {"shared_13grams": 1}
    assert selection.overlap["shared_13gram_fraction_before"]["wiki"] > 0
    assert selection.overlap["shared_13gram_fraction"]["wiki"] == 0


def test_the_lead_of_an_evaluation_page_is_dropped_by_its_title(articles, pages):
    lead = article("wiki", 999, title="page 3")
    other = article("news", 1, title="Page 3")
    pool = Pool((source("wiki", [*articles, lead]), source("news", [other], share=0.01)), pages, ())
    selection = draw(pool, num_sequences=1100)
    assert selection.rejects["wiki"]["title_of_evaluation_page"] == 1
    assert "wiki999" not in texts(selection, "train") | texts(selection, "heldout")


def test_an_evaluation_page_quoted_in_training_text_is_dropped(articles, pages):
    quoting = [article("wiki", n, sentence(f"q{n}", 600) + " " + pages.documents[0].text) for n in range(500, 540)]
    quoting = [a for a in quoting if group_permille("wiki", a.id) >= 60][:1]
    pool = Pool((source("wiki", [*articles, *quoting]),), pages, ())
    selection = draw(pool, num_sequences=1200, num_eval_wiki=20)
    assert pages.documents[0].id not in texts(selection, "eval_wiki")
    assert selection.overlap["eval_wiki_documents_dropped"] == 1


def test_a_source_that_is_too_small_is_topped_up_by_the_others_and_named(articles, pages):
    few = [article("news", number) for number in range(4)]
    selection = draw(Pool((source("wiki", articles), source("news", few)), pages, ()), num_sequences=200)
    counts = [sum(e.document.source == name for e, _ in selection.picks["train"]) for name in ("wiki", "news")]
    assert sum(counts) == 200
    assert counts[1] < 100
    assert any(s.startswith("train: source news gave") for s in selection.missing)


def test_empty_and_short_documents_are_counted_apart(articles, pages):
    bad = [Document("e", "  \n", "wiki"), Document("s", "too short", "wiki")]
    selection = draw(Pool((source("wiki", [*articles, *bad]),), pages, ()), num_sequences=1100)
    assert selection.rejects["wiki"] == {"empty": 1, "too_short": 1}


def test_a_small_evaluation_set_takes_one_window_of_many_documents_before_a_second_of_any(articles, pages):
    selection = draw(Pool((source("wiki", articles),), pages, ()), num_eval_wiki=4)
    assert len(texts(selection, "eval_wiki")) == 4
    selection = draw(Pool((source("wiki", articles),), pages, ()), num_eval_wiki=15)
    counts = Counter(entry.document.id for entry, _ in selection.picks["eval_wiki"])
    assert len(counts) == len(pages.documents)
    assert max(counts.values()) <= 4


def test_test_and_development_sets_share_no_document_whatever_the_seeds(articles, pages):
    pool = Pool((source("wiki", articles),), pages)
    quoted, looked_at = (
        {
            split: set().union(*(texts(draw(pool, seed=seed, evaluation_part=part), split) for seed in (0, 1)))
            for split in ("heldout", "eval_wiki")
        }
        for part in ("test", "development")
    )
    for split in ("heldout", "eval_wiki"):
        assert quoted[split] and looked_at[split]
        assert not quoted[split] & looked_at[split]


def test_a_group_is_never_divided_between_test_and_development():
    documents = [
        Document(f"act{n}", sentence(f"act{n}"), "books", metadata={"group": f"play{n % 5}"}) for n in range(30)
    ]
    test, development = evaluation_part(documents, "test"), evaluation_part(documents, "development")
    assert {d.group for d in test}.isdisjoint(d.group for d in development)
    assert sorted(d.id for d in [*test, *development]) == sorted(d.id for d in documents)
    assert len({d.group for d in test}) == 3
