"""The full study: from text to the answer, one Prefect flow that reads as a table of contents."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.opening import flow_run_name, open_study
from flows.options import flow_options
from tasks.publishing import finish, seal


@flow(name="dihal", **flow_options(flow_run_name))
def full_study(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> State[Any] | dict[str, Any]:
    """Locate the layer where diffusion should enter, test the prediction, train and evaluate the hybrid.

    Args:
        backbone: Preset name, local model folder or hub id (organisation/model); None keeps the profile's own.
        profile: Name of a shipped profile (`quickstart`, `smoke`, `thorough`, `gemma`, `paper-...`).
        seed: Root of all random streams.
        overrides: Dotted settings, e.g. `{"sweep.training.max_steps": 40}`.
        force: Stages to run again although they are cached.
    """
    study = open_study("full-study", backbone, profile, seed, overrides, force)
    study.run("assets")
    study.run("corpus")
    study.run("gates")
    study.run("activations")
    study.run("geometry")
    study.run("score")
    seal(study)
    if study.sweeps:
        study.run("ridge")
        study.run("sweep", tolerate_failures=True)
        study.run("agreement")
    study.run("replace")
    study.run("evaluate")
    study.run("cost")
    study.run("hybrid")
    study.run("report")

    result = finish(study)
    if study.failed:
        layers = ", ".join(result["failed_layers"])
        return Completed(name="Partial", message=f"layers {layers} are missing; run again to fill them", data=result)
    return result
