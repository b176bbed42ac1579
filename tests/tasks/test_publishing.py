"""A study run tells its journal how it ended, wherever it failed."""

import json

import pytest

from dihal_core.journal import RunJournal
from dihal_core.profiles import load_study
from tasks.publishing import finish, seal
from tasks.study import StudyRun


@pytest.mark.parametrize("step", [seal, finish])
def test_a_failure_outside_a_task_is_told_in_the_journal(tmp_path, step):
    settings = load_study("smoke")
    journal = RunJournal(tmp_path / "studies" / "s", "full-study", ("score",), settings.model_dump(mode="json"), {})
    study = StudyRun(settings, tmp_path, journal=journal)
    with pytest.raises(KeyError, match=r"score|report"):
        step(study)
    told = json.loads(journal.path.read_bytes())
    assert told["state"] == "failed"
    assert told["message"]


def test_a_journal_that_cannot_be_written_does_not_hide_why_a_step_failed(tmp_path, caplog):
    journal = RunJournal(tmp_path / "studies" / "s", "full-study", ("score",), {}, {})
    study = StudyRun(load_study("smoke"), tmp_path, journal=journal)
    journal.path.unlink()
    journal.path.mkdir()  # a rename onto a folder fails, for root too
    with pytest.raises(KeyError, match="score"):
        seal(study)
    assert "cannot be written" in caplog.text
