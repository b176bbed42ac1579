"""How the selected layer depends on choices the paper leaves open: the same hidden states, scored again and again."""

from typing import Any

from prefect import flow

from dihal_core.sensitivity import resolve_choices
from flows.opening import flow_run_name, open_study
from flows.options import flow_options
from tasks.concluding import rescore, sensitivity_outcome


@flow(name="dihal-sensitivity", **flow_options(flow_run_name))
def sensitivity(
    backbone: str | None = None,
    profile: str = "quickstart",
    seed: int = 0,
    choices: list[str] | None = None,
    overrides: dict[str, Any] | None = None,
    force: list[str] | None = None,
) -> dict[str, Any]:
    """Score every layer under other ridges, neighbourhoods, curvature forms, scalings and token policies.

    Args:
        backbone: Preset name, local model folder or hub id (organisation/model); None keeps the profile's own.
        profile: Name of a shipped profile.
        seed: Root of all random streams.
        choices: Names of `dihal_core.sensitivity.CHOICES`; None means all that reuse the hidden states, `all` means all.
        overrides: Dotted settings of the default, e.g. `{"geometry.large_count": 30}`.
        force: Stages to run again although they are cached.
    """
    study = open_study("sensitivity", backbone, profile, seed, overrides, force)
    wanted, left_out = resolve_choices(study.settings, choices)
    study.run("assets")
    study.run("corpus")
    study.run("activations")
    study.run("geometry")
    study.run("score")
    rows = [rescore(study, choice) for choice in wanted]
    return sensitivity_outcome(study, rows, left_out)
