"""Core progress, shown in the log and as a Prefect progress artifact that moves."""

import logging
import threading
import time
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from dihal_core.progress import LoggedProgress
from tasks.stopping import current_run, end_if_asked

log = logging.getLogger(__name__)

ARTIFACT_EVERY_S = 15.0
"""Seconds between updates in the UI: every one costs the server a write."""
PATIENCE_SECONDS = 5.0
"""What the work waits for a server to take one: the next report comes soon."""


def artifact_key(*parts: str) -> str:
    """Return a key Prefect accepts: lower case, digits, dashes."""
    text = "-".join(parts).lower()
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split())


class ProgressArtifact:
    """One progress artifact, made at the first report and moved at most every 15 s; its text is the description.

    `foot` is Markdown that stands below each text: where what is made will lie.
    """

    def __init__(self, key: str, foot: str = ""):
        self.key, self.foot = key, foot
        self._shown_at = -ARTIFACT_EVERY_S
        self._percent = 0.0
        self._artifact: UUID | None = None
        self._lock = threading.Lock()

    def show(self, percent: float, text: str) -> None:
        """Move the artifact to `percent`; the end is always shown."""
        with self._lock:
            now = time.monotonic()
            if percent < 100 and now - self._shown_at < ARTIFACT_EVERY_S:
                return
            self._shown_at, self._percent = now, percent
            try:
                self._send(percent, text + self.foot)
            except Exception as error:  # the server may be away for a moment; the work goes on
                log.warning("progress %s not shown in the UI (%s: %s)", self.key, type(error).__name__, error)

    def _send(self, percent: float, text: str) -> None:
        # A client of its own: the flow's waits a minute for an answer, and repeats, which is right for states.
        patience = {"timeout": PATIENCE_SECONDS}
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings=patience) as client,
        ):
            if self._artifact is None:
                task, flow = task_run.id, flow_run.id
                made = ArtifactCreate(
                    type="progress",
                    key=self.key,
                    description=text,
                    data=percent,
                    task_run_id=UUID(task) if task else None,
                    flow_run_id=UUID(flow) if flow else None,
                )
                self._artifact = client.create_artifact(made).id
            else:
                client.update_artifact(self._artifact, ArtifactUpdate(data=percent, description=text))

    def end(self, text: str) -> None:
        """Move an artifact that was made to 100 %: the last report of some stages lies before their end."""
        if self._artifact is not None and self._percent < 100:
            self.show(100.0, text)


class TaskProgress(LoggedProgress):
    """`LoggedProgress` that also keeps one progress artifact up to date.

    A report of a run that was asked to stop ends the task (see `tasks.stopping`).
    """

    def __init__(self, label: str, key: str, every_s: float = 5.0, foot: str = ""):
        self.artifact = ProgressArtifact(key, foot)
        super().__init__(label, every_s=every_s, also=self.artifact.show)
        self._run = current_run()

    def __call__(self, done: float, total: float, unit: str) -> None:
        """Record that `done` of `total` units are finished."""
        end_if_asked(self._run)
        super().__call__(done, total, unit)

    def end(self) -> None:
        """Say that the stage is finished."""
        self.artifact.end(f"{self.label}: done in {time.monotonic() - self.started:.0f} s")
