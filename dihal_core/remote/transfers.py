"""Many files side by side: progress for large amounts, and no further attempt once one has failed."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

from dihal_core.progress import LoggedProgress, silent

TRANSFERS = 8
"""Objects in flight at once."""
LARGE_BYTES = 10**8
"""From here on progress is logged."""
SHOW_EVERY_S = 15.0

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def move(
    label: str, items: Iterable[Item], size_of: Callable[[Item], int], one: Callable[[Item], Answer]
) -> list[Answer]:
    """Return `[one(item), ...]`, several at a time; `size_of` gives the bytes of an item for the progress.

    The first failure is raised after the transfers in flight; the others are not begun (each would wait for the same
    dead connection).
    """
    work = list(items)
    total = sum(map(size_of, work))
    show = LoggedProgress(label, SHOW_EVERY_S) if total >= LARGE_BYTES else silent
    lock, failed, done = threading.Lock(), threading.Event(), 0

    def act(item: Item) -> Answer:
        nonlocal done
        if failed.is_set():
            raise CancelledError
        try:
            answer = one(item)
        except BaseException:
            failed.set()
            raise
        with lock:
            done += size_of(item)
            show(round(done / 1e9, 2), round(total / 1e9, 2), "GB")
        return answer

    pool = ThreadPoolExecutor(TRANSFERS)
    try:
        futures = [pool.submit(act, item) for item in work]
        wait(futures)
        for future in futures:
            error = future.exception()
            if error is not None and not isinstance(error, CancelledError):
                raise error
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
