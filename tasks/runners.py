"""Where task runs are computed: threads of the flow's process, or the workers of a Dask or Ray cluster.

Every flow has a `StudyTaskRunner`. It starts with threads; when the settings are known, `choose_runner`
connects it to the cluster of `compute.runner`, which is closed with the flow, however that ends. Numbers are
those of one process: a unit computes with the threads its key names, wherever it runs, and a worker refuses
to run other code or libraries than the flow's (`tasks.workers`).

One process makes a store at a time (`dihal_core.store.store_lock`, an flock): sure between processes of one
machine, and between machines where the shared file system carries flock (NFS since Linux 2.6.12 unless it
is mounted with `nolock` or `local_lock`, Lustre with `-o flock`, CephFS, GPFS). Where it does not, one study
is still right, since its flow asks for each unit once, but two studies at once must not share a home.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic_core import PydanticSerializationError

from dihal_core.config import ComputeSettings
from dihal_core.errors import ConfigError, ResourceError
from tasks.engines import require_engine

log = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
RAY_OBJECT_STORE_BYTES = 100 * 2**20
"""Tasks exchange records of a few kilobytes; Ray takes no less than 75 MB."""


def worker_environment() -> dict[str, str]:
    """Return what a local worker's environment has beside the flow's own: one thread where no setting names a number."""
    return {name: os.environ.get(name, "1") for name in THREAD_VARIABLES}


def _dask(compute: ComputeSettings) -> TaskRunner[Any]:
    import dask.config
    from prefect_dask.task_runners import DaskTaskRunner

    if compute.runner_address is not None:
        return DaskTaskRunner(address=compute.runner_address)
    dask.config.set({"distributed.worker.daemon": False})  # a stage may start processes of its own
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": compute.runner_workers,
            "threads_per_worker": 1,
            "processes": True,
            "env": worker_environment(),
            "host": "127.0.0.1",
            "dashboard_address": None,
            "memory_limit": 0,  # else workers are paused and killed at a share of the machine's memory
            "silence_logs": logging.ERROR,
        }
    )


def _ray(compute: ComputeSettings) -> TaskRunner[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from prefect_ray.task_runners import RayTaskRunner

    if compute.runner_address is not None:
        return RayTaskRunner(address=compute.runner_address)
    return RayTaskRunner(
        init_kwargs={
            "num_cpus": compute.runner_workers,
            "include_dashboard": False,
            "object_store_memory": RAY_OBJECT_STORE_BYTES,
            "log_to_driver": True,
            "runtime_env": {"env_vars": worker_environment()},
            "logging_level": logging.ERROR,
        }
    )


CLUSTERS: dict[str, Callable[[ComputeSettings], TaskRunner[Any]]] = {"dask": _dask, "ray": _ray}


class StudyTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Threads until `connect` names a cluster. What was opened closes with the flow.

    Parameters
    ----------
    max_workers
        Threads; how many units really run at once is said by `tasks.capacity`.
    """

    def __init__(self, max_workers: int):
        super().__init__()
        self.max_workers = max_workers
        self._opened: contextlib.ExitStack | None = None
        self._inner: TaskRunner[Any] | None = None

    def duplicate(self) -> "StudyTaskRunner":
        """Return a runner of its own that is not started."""
        return type(self)(self.max_workers)

    def __enter__(self) -> "StudyTaskRunner":
        super().__enter__()
        self._opened = contextlib.ExitStack()
        self._inner = self._opened.enter_context(ThreadPoolTaskRunner(max_workers=self.max_workers))
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        opened, self._opened, self._inner = self._opened, None, None
        try:
            if opened is not None:
                opened.__exit__(exc_type, exc_value, traceback)
        finally:
            super().__exit__(exc_type, exc_value, traceback)

    def connect(self, compute: ComputeSettings) -> None:
        """Send all further tasks to the cluster of `compute.runner`.

        Raises
        ------
        ResourceError
            If no cluster answers at `compute.runner_address`, or a local one does not start.
        """
        if self._opened is None:
            raise ConfigError("the task runner is not started; a study runs inside a flow")
        where = compute.runner_address or f"{compute.runner_workers} processes of this machine"
        try:
            self._inner = self._opened.enter_context(CLUSTERS[compute.runner](compute))
            getattr(self._inner, "client", None)  # Dask connects when it is first asked for its client
        except (OSError, RuntimeError, ValueError) as error:  # what the two engines raise where nobody answers
            raise ResourceError(
                f"no {compute.runner} cluster at {where} ({type(error).__name__}: {str(error)[:300]}); check "
                "compute.runner_address, or leave it out for a local cluster"
            ) from error
        log.info("tasks run on %s: %s", compute.runner, where)

    def submit(
        self,
        task: Any,
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: Any = None,
    ) -> PrefectFuture[Any]:
        """Submit `task` to the threads or the cluster; the future is theirs."""
        if self._inner is None:
            raise ConfigError("the task runner is not started; a study runs inside a flow")
        try:
            return self._inner.submit(task, parameters, wait_for, dependencies)
        except PydanticSerializationError as error:  # what Ctrl-C becomes while the flow's context is serialised
            if "KeyboardInterrupt" in str(error):
                raise KeyboardInterrupt from error
            raise


def choose_runner(compute: ComputeSettings) -> None:
    """Let the flow that is running compute its tasks where `compute.runner` says.

    Raises
    ------
    ConfigError
        If the engine is not installed, or the flow was declared without a `StudyTaskRunner`.
    ResourceError
        If the cluster does not answer.
    """
    require_engine(compute)
    if compute.runner == "threads":
        return
    context = FlowRunContext.get()
    runner = None if context is None else context.task_runner
    if not isinstance(runner, StudyTaskRunner):
        raise ConfigError(
            f"compute.runner is {compute.runner} but this flow runs on {type(runner).__name__}; declare it with "
            "task_runner=StudyTaskRunner(MAX_TASKS)"
        )
    runner.connect(compute)
