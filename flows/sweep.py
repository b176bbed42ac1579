"""The sweep alone: from text to whether the geometry predicts the bridge loss, without full training."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.opening import flow_run_name, open_study
from flows.options import flow_options
from tasks.concluding import sweep_outcome
from tasks.publishing import seal


@flow(name="dihal-sweep", **flow_options(flow_run_name))
def sweep(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> State[Any] | dict[str, Any]:
    """Score every layer, train one bridge per layer, compare; a later full study reuses the stores.

    Args:
        backbone: Preset name, local model folder or hub id (organisation/model); None keeps the profile's own.
        profile: Name of a shipped profile.
        seed: Root of all random streams.
        overrides: Dotted settings, e.g. `{"sweep_layers": "top:8"}`.
        force: Stages to run again although they are cached.
    """
    study = open_study("sweep", backbone, profile, seed, overrides, force)
    study.run("assets")
    study.run("corpus")
    study.run("gates")
    study.run("activations")
    study.run("geometry")
    study.run("score")
    seal(study)
    study.run("ridge")
    study.run("sweep", tolerate_failures=True)
    study.run("agreement")

    result = sweep_outcome(study)
    if study.failed:
        layers = ", ".join(result["failed_layers"])
        return Completed(name="Partial", message=f"layers {layers} are missing; run again to fill them", data=result)
    return result
