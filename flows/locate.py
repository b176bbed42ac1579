"""Locate alone: from text to the layer the geometry picks, without training a bridge."""

from typing import Any

from prefect import flow

from flows.opening import flow_run_name, open_study
from flows.options import flow_options
from tasks.publishing import finish


@flow(name="dihal-locate", **flow_options(flow_run_name))
def locate(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> dict[str, Any]:
    """Score every layer of a backbone and say where diffusion should enter; a later full study reuses the stores.

    Args:
        backbone: Preset name, local model folder or hub id (organisation/model); None keeps the profile's own.
        profile: Name of a shipped profile.
        seed: Root of all random streams.
        overrides: Dotted settings, e.g. `{"geometry.k": 20}`.
        force: Stages to run again although they are cached.
    """
    study = open_study("locate", backbone, profile, seed, overrides, force)
    study.run("assets")
    study.run("corpus")
    study.run("activations")
    study.run("geometry")
    study.run("score")
    study.run("metrics")
    study.run("locate")
    return finish(study, "locate")
