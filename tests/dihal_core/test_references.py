import importlib.util
from pathlib import Path

import pytest

from dihal_core.errors import ArtifactError
from dihal_core.references import referred

_spec = importlib.util.spec_from_file_location("tiny_home", Path(__file__).with_name("tiny_home.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


@pytest.fixture
def home(tmp_path):
    tiny.fill(tmp_path)
    return tmp_path


def test_what_a_study_refers_to_is_kept_with_everything_it_was_made_from(home):
    assert referred(home) == tiny.NEEDED


@pytest.mark.parametrize("where", ["history/study-20260101T000000Z.json", "runs/journal.json", "sensitivity.json"])
def test_a_kept_history_a_journal_or_any_other_file_of_a_study_counts(home, where):
    tiny.publish(home, "first", [tiny.found_in(home, "activations", "a2")], where)
    assert referred(home) == tiny.NEEDED | tiny.stores("activations/a2", "corpus/c2")


def test_a_seal_remembers_an_old_score_and_keeps_no_store(home):
    tiny.publish(home, "first", [tiny.found_in(home, "activations", "a2")], "sealed.json")
    assert referred(home) == tiny.NEEDED


def test_a_published_result_keeps_the_store_it_came_from_and_what_that_read(home):
    dump = tiny.found_in(home, "activations", "a2")
    page = tiny.make(home, "locate", "l1", {"activations": dump}, {"locate.json": b'{"selected": 3}'})
    other = tiny.make(home, "locate", "l2", {"activations": dump}, {"locate.json": b'{"selected": 4}'})
    (home / "studies" / "first" / "locate.json").write_text('{"selected": 3, "difference": "2 -> 3"}')
    assert referred(home) == tiny.NEEDED | tiny.stores("locate/l1", "activations/a2", "corpus/c2")
    assert page.digest != other.digest


def test_a_hybrid_is_kept_with_its_training(home):
    training, stranger = (
        tiny.make(home, "replace", "r1", {"corpus": tiny.found_in(home, "corpus", "c1")}),
        tiny.make(home, "replace", "r2"),
    )
    tiny.make(home, "hybrid", "h1", {"replace": training})
    tiny.make(home, "hybrid", "h2", {"replace": stranger})
    tiny.publish(home, "second", [training])
    assert referred(home) == tiny.NEEDED | tiny.stores("replace/r1", "hybrid/h1")


def test_an_unreadable_result_stops_the_search_instead_of_freeing_its_stores(home):
    (home / "studies" / "first" / "study.json").write_text('{"records": ')
    with pytest.raises(ArtifactError, match=r"study\.json is unreadable"):
        referred(home)
