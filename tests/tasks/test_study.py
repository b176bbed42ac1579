"""A study run tells its journal how it ended, also where a disk is full."""

import json

import pytest

from dihal_core.errors import ResourceError
from dihal_core.journal import RunJournal
from dihal_core.profiles import load_study
from tasks.study import StudyRun, told_in_journal


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
