"""The stores of a finished study, taken as they are: nothing is recomputed and no key is asked for."""

from pathlib import Path

from dihal_core.comparing import load_result
from dihal_core.config import StudySettings
from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.history import Json
from dihal_core.inspection import inspect_store
from dihal_core.profiles import known_paths, with_overrides
from dihal_core.remote.link import pull_studies
from dihal_core.study import Records

EVALUATED = ("study.json", "replace.json")
"""Results that name a trained hybrid."""


def evaluable(home: Path, study: str | None, overrides: dict[str, object] | None) -> tuple[str, StudySettings, Json]:
    """Return name, settings and result of a study whose hybrid can be evaluated.

    Parameters
    ----------
    study
        Folder under `studies/`; None means the one published last.
    overrides
        Dotted settings under `evaluation.` or `compute.`: others would ask for another hybrid.

    Raises
    ------
    ConfigError
        If there is no such study, or a setting is none that an evaluation may change.
    """
    pull_studies(home, EVALUATED)
    path, result = load_result(home, study, EVALUATED)
    for name in overrides or {}:
        if not name.startswith(("evaluation.", "compute.")):
            allowed = ", ".join(item for item in known_paths() if item.startswith("evaluation."))
            raise ConfigError(f"an evaluation cannot change {name!r}, it would be another hybrid; it may set {allowed}")
    return path.parent.name, with_overrides(result["settings"], overrides or {}), result


def stored_records(home: Path, result: Json, stages: tuple[str, ...]) -> Records:
    """Return the records of single-run `stages` that a result names.

    Raises
    ------
    ArtifactError
        If a store is gone or damaged.
    """
    found: Records = {}
    for stage in stages:
        rows = [row for row in result["records"] if row["stage"] == stage]
        status = inspect_store(home, stage, rows[0]["key"]) if rows else None
        if status is None or status.record is None or status.record.digest != rows[0]["digest"]:
            reason = "its result names none" if status is None else status.reason
            raise ArtifactError(
                f"study {result['study']} has no usable store of stage {stage!r} ({reason}); run the study again"
            )
        found[stage] = status.record
    return found
