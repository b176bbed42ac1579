"""A study run tells its journal how it ended, wherever it failed."""

import json

import pytest

from dihal_core.errors import ResourceError
from dihal_core.journal import RunJournal
from dihal_core.profiles import load_study
from tasks.study import StudyRun, told_in_journal


@pytest.mark.parametrize("step", ["seal", "finish"])
def test_a_failure_outside_a_task_is_told_in_the_journal(tmp_path, step):
    settings = load_study("smoke")
    journal = RunJournal(tmp_path / "studies" / "s", "full-study", ("score",), settings.model_dump(mode="json"), {})
    study = StudyRun(settings, tmp_path, journal=journal)
    with pytest.raises(KeyError, match=r"score|report"):
        getattr(study, step)()
    told = json.loads(journal.path.read_bytes())
    assert told["state"] == "failed"
    assert told["message"]


def test_a_full_disk_under_a_step_is_told_in_a_sentence_with_the_next_step(tmp_path):
    journal = RunJournal(tmp_path / "studies" / "s", "full-study", ("score",), {}, {})
    study = StudyRun(load_study("smoke"), tmp_path, journal=journal)

    @told_in_journal
    def step(study: StudyRun) -> None:
        with open("/dev/full", "wb", buffering=0) as handle:
            handle.write(b"x")

    with pytest.raises(ResourceError, match=r"the disk under .* is full .*free some space and run the same command"):
        step(study)
    assert "is full" in json.loads(journal.path.read_bytes())["message"]


def test_a_journal_that_cannot_be_written_does_not_hide_why_a_step_failed(tmp_path, caplog):
    journal = RunJournal(tmp_path / "studies" / "s", "full-study", ("score",), {}, {})
    study = StudyRun(load_study("smoke"), tmp_path, journal=journal)
    journal.path.unlink()
    journal.path.mkdir()  # a rename onto a folder fails, for root too
    with pytest.raises(KeyError, match="score"):
        study.seal()
    assert "cannot be written" in caplog.text
