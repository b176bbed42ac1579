"""Replacement alone: train bridge and controls at one layer, evaluate them, export the hybrid."""

from typing import Any

from prefect import flow

from flows.opening import flow_run_name, open_study
from flows.options import flow_options
from tasks.concluding import replace_outcome
from tasks.publishing import seal


@flow(name="dihal-replace", **flow_options(flow_run_name))
def replace(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    layer: int | None = None,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> dict[str, Any]:
    """Train the replacement at a given layer, or at the one the geometry selects, and export it as a model.

    Args:
        backbone: Preset name, local model folder or hub id (organisation/model); None keeps the profile's own.
        profile: Name of a shipped profile.
        seed: Root of all random streams.
        layer: Block the diffusion bridge replaces; None means the layer the score selects.
        overrides: Dotted settings, e.g. `{"replace.training.max_steps": 40}`.
        force: Stages to run again although they are cached.
    """
    given = {"replace.layer": layer} if layer is not None else {}
    study = open_study("replace", backbone, profile, seed, {**(overrides or {}), **given}, force)
    study.run("assets")
    study.run("corpus")
    study.run("gates")
    if study.settings.replace.layer is None:
        study.run("activations")
        study.run("geometry")
        study.run("score")
        seal(study)
    study.run("replace")
    study.run("evaluate")
    study.run("hybrid")
    return replace_outcome(study)
