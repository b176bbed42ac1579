"""Studies side by side: selected layers, scores, agreement, quality of the hybrids, and what moved between two."""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from dihal_core.comparing import compare_studies
from dihal_core.store import resolve_home
from flows.guard import guard_run
from flows.opening import show_core_logs
from flows.options import flow_options
from tasks.concluding import comparison_outcome


def _run_name() -> str:
    return f"compare · {', '.join(flow_run.parameters.get('studies') or ['all studies'])}"


@flow(name="dihal-compare", **flow_options(_run_name))
def compare(studies: list[str] | None = None) -> dict[str, Any]:
    """Compare finished studies of this home; runs no stage.

    Args:
        studies: Folders under `studies/`, in the order of the table; None means all, oldest first.
    """
    guard_run()
    show_core_logs()
    home = resolve_home()
    found = compare_studies(home, studies)
    return comparison_outcome(home, found)
