"""Bridge architectures side by side: the paper's appendix D.1 at one layer, with budgets, intervals and seeds."""

from typing import Any

from prefect import flow

from dihal_core.design import for_design
from flows.opening import flow_run_name, open_study
from flows.options import flow_options
from tasks.publishing import finish


@flow(name="dihal-ablate", **flow_options(flow_run_name))
def ablate(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> dict[str, Any]:
    """Train every registered bridge and control at one layer at the same budget and say which is better.

    Scored on the development half of the evaluation documents, because it serves a choice; figures to quote come from
    the other half (`corpus.evaluation_part` = `test`).

    Args:
        backbone: Preset name, local model folder or hub id (organisation/model); None keeps the profile's own.
        profile: Name of a shipped profile.
        seed: Root of all random streams; training 0 of every arm has it, further ones streams of it.
        overrides: Dotted settings, e.g. `{"ablation.layer": 2, "ablation.arms": ["mlp", "unet"]}`.
        force: Stages to run again although they are cached.
    """
    study = open_study("ablate", backbone, profile, seed, for_design(overrides), force)
    study.run("assets")
    study.run("corpus")
    study.run("gates")
    study.run("ablate")
    study.run("ablation")
    return finish(study, "ablation")
