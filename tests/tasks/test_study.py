"""A study run tells its journal how it ended, wherever it failed."""

import json

import pytest

from dihal_core.journal import RunJournal
from dihal_core.profiles import load_study
from tasks.study import StudyRun


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
