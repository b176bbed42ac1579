import logging
import threading
import time

import pytest

from dihal_core.errors import NetworkError
from dihal_core.remote import transfers
from dihal_core.remote.transfers import TRANSFERS, move


def test_answers_come_in_the_order_of_the_items():
    def slow_first(item: int) -> int:
        time.sleep(0.05 if item == 0 else 0)
        return item * 2

    assert move("upload x", range(30), lambda item: 1, slow_first) == [2 * item for item in range(30)]
    assert move("upload x", [], lambda item: 1, slow_first) == []


def test_after_a_failure_nothing_further_is_begun():
    begun, lock = [], threading.Lock()

    def fail(item: int) -> None:
        with lock:
            begun.append(item)
        time.sleep(0.02)
        raise NetworkError(f"item {item}: no route to host")

    with pytest.raises(NetworkError, match="no route"):
        move("upload x", range(1000), lambda item: 1, fail)
    assert len(begun) <= 2 * TRANSFERS


def test_large_amounts_show_their_progress(monkeypatch, caplog):
    monkeypatch.setattr(transfers, "SHOW_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "dihal_core"):
        move("upload corpus/k", [10**9, 2 * 10**9], lambda item: item, lambda item: None)
        move("upload corpus/small", [10], lambda item: item, lambda item: None)
    assert "upload corpus/k: 3/3 GB" in caplog.text
    assert "corpus/small" not in caplog.text
