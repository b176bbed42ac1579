from pathlib import Path

from dihal_core.stages import STAGES
from tasks.artifacts import ARTIFACTS
from tasks.stages import TASKS
from tasks.table import ARTIFACT_CONTENT, stage_table


def test_every_stage_has_a_task_an_artifact_and_a_row():
    assert set(TASKS) == set(ARTIFACTS) == set(ARTIFACT_CONTENT) == set(STAGES)


def test_the_readme_holds_the_stage_table_of_this_code():
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert stage_table() in readme
