"""What is ours on a Prefect server that others use too: the flows of this project, and whatever belongs to them."""

from collections.abc import Callable
from typing import Any

from prefect.client.schemas.filters import FlowFilter, FlowFilterName

FLOW_NAMES = (
    "dihal",
    "dihal-ablate",
    "dihal-compare",
    "dihal-evaluate",
    "dihal-locate",
    "dihal-replace",
    "dihal-sensitivity",
    "dihal-sweep",
    "dihal-watch",
)
"""Every flow of this project; `deployments/automations.yaml` names the same."""
PAGE = 200
"""Most that the server gives in one answer."""


def our_flows() -> FlowFilter:
    """Return the filter that leaves out what belongs to flows of others."""
    return FlowFilter(name=FlowFilterName(any_=list(FLOW_NAMES)))


def every(read: Callable[..., list[Any]], **chosen: Any) -> list[Any]:
    """Return all pages of a `read_...` of the client, restricted to our flows."""
    found: list[Any] = []
    while True:
        page = read(flow_filter=our_flows(), limit=PAGE, offset=len(found), **chosen)
        found.extend(page)
        if len(page) < PAGE:
            return found
