"""What `dihal up` sets on the server beside deployments: the GPU queue, one slot per GPU, and which schedules run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from dihal_core.errors import ConfigError, ResourceError, nearest
from flows import server
from flows.ours import every
from tasks.slots import ensure_limits, visible_gpus

Schedules = dict[str, tuple[Any, Any]]
"""Slug -> (deployment id, schedule)."""

GPU_QUEUE = "gpu"
BEFORE_DEPLOY = "dihal_schedules_before_deploy"
"""Prefect variable: the schedules to turn on again, while a deploy is under way."""


def deployment_names(client: SyncPrefectClient) -> list[str]:
    """Return `<flow>/<deployment>` of every deployment of our flows, sorted."""
    flows = {flow.id: flow.name for flow in every(client.read_flows)}
    return sorted(f"{flows[item.flow_id]}/{item.name}" for item in every(client.read_deployments))


def schedules(client: SyncPrefectClient) -> Schedules:
    """Return every schedule of our flows that has a slug."""
    return {
        item.slug: (deployment.id, item)
        for deployment in every(client.read_deployments)
        for item in deployment.schedules
        if item.slug
    }


@contextmanager
def keep_schedules(url: str, say: Callable[[str], None]) -> Iterator[set[str]]:
    """Yield the slugs of the schedules that run, and turn them on again at the end: a deploy turns all off.

    The server keeps them in the variable `BEFORE_DEPLOY` meanwhile. What a deploy that was killed had found running is
    still there and counts as running at the next one, unless somebody has switched schedules since.

    Raises
    ------
    ResourceError
        If they cannot be turned on again; the deploy's own error goes before it.
    """
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        before = {slug for slug, (_, schedule) in schedules(client).items() if schedule.active} | _remembered(client)
        _remember(client, before)
    try:
        yield before
    except BaseException:
        try:
            _restore(url, before)
        except Exception as error:
            say(_not_restored(before, error))
        raise
    try:
        _restore(url, before)
    except Exception as error:
        raise ResourceError(_not_restored(before, error)) from error


def _restore(url: str, before: set[str]) -> None:
    """Turn on what ran before a deploy; schedules the file no longer has are gone."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        switch_schedules(client, before & set(schedules(client)))


def _not_restored(before: set[str], error: Exception) -> str:
    return (
        f"schedules that ran before the deploy may be off: {', '.join(sorted(before)) or 'none'} ({type(error).__name__}: "
        f"{error}); the next `dihal up`, or a restart of the stack, turns them on again"
    )


def _remembered(client: SyncPrefectClient) -> set[str]:
    found = client.read_variable_by_name(BEFORE_DEPLOY)
    return set(found.value) if found is not None and isinstance(found.value, list) else set()


def _remember(client: SyncPrefectClient, before: set[str]) -> None:
    if client.read_variable_by_name(BEFORE_DEPLOY) is not None:
        client.update_variable(VariableUpdate(name=BEFORE_DEPLOY, value=sorted(before)))
    elif before:
        client.create_variable(VariableCreate(name=BEFORE_DEPLOY, value=sorted(before), tags=["dihal"]))


def operate(
    home: Path, url: str, wanted: list[str] | None, before: set[str], gpus: list[str], say: Callable[[str], None]
) -> None:
    """Switch schedules, make the GPU queue and its limits, and say what is deployed.

    Parameters
    ----------
    wanted
        Schedules to run from now on; None keeps those that ran `before` the deploy, an empty list stops all.
    gpus
        GPUs of this machine that studies may use.

    Raises
    ------
    ConfigError
        For a schedule that no deployment has.
    """
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        say(f"deployed: {', '.join(deployment_names(client))}")
        running = switch_schedules(client, set(before) & set(schedules(client)) if wanted is None else wanted)
        say(f"schedules that run: {', '.join(running) or 'none; `dihal up --schedules NAME ...` turns them on'}")
        _gpu_queue(client, len(gpus))
        ensure_limits(gpus)
    if not gpus:
        say("no GPU here: runs in queue `gpu` wait for a worker that has one")


def switch_schedules(client: SyncPrefectClient, wanted: Iterable[str]) -> list[str]:
    """Turn the schedules named in `wanted` on and all others of our flows off; return those that run.

    Prefect 3.8 empties the parameters of a schedule whose `active` alone is changed (as its UI does), so they are
    sent along.

    Raises
    ------
    ConfigError
        For a schedule that no deployment has.
    """
    known = schedules(client)
    names = set(wanted)
    for name in sorted(names - set(known)):
        raise ConfigError(f"no schedule {name!r}{nearest(name, known)}; there are {', '.join(sorted(known))}")
    for name, (deployment, schedule) in known.items():
        if bool(schedule.active) != (name in names):
            client.update_deployment_schedule(
                deployment, schedule.id, active=name in names, parameters=schedule.parameters
            )
    with suppress(ObjectNotFound):  # this is the last word: nothing is left to turn on again
        client.delete_variable_by_name(BEFORE_DEPLOY)
    return sorted(names)


def _gpu_queue(client: SyncPrefectClient, gpus: int) -> None:
    """Make the queue; as many of its runs start at once as there are GPUs here (none here: others decide)."""
    limit = gpus or None
    try:
        queue = client.read_work_queue_by_name(GPU_QUEUE, work_pool_name=server.POOL)
    except ObjectNotFound:
        queue = client.create_work_queue(name=GPU_QUEUE, concurrency_limit=limit, work_pool_name=server.POOL)
    if limit is not None and queue.concurrency_limit != limit:
        client.update_work_queue(queue.id, concurrency_limit=limit)


def chosen_gpus(count: int | None) -> list[str]:
    """Return the GPUs to use: all that are visible, or the first `count`.

    Raises
    ------
    ConfigError
        If there are fewer.
    """
    found = visible_gpus()
    if count is None:
        return found
    if not 0 <= count <= len(found):
        raise ConfigError(f"--gpus {count} is outside 0..{len(found)}, the GPUs this machine shows; give fewer")
    return found[:count]
