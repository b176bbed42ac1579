"""Batches come in order, read ahead by a bounded number, and errors come where the batch would have."""

import importlib.util
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dihal_core.activations.names import GROUP, chunk_file
from dihal_core.activations.reader import load_whole, map_whole
from dihal_core.activations.stream import WindowStream
from dihal_core.errors import ArtifactError

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return script.dump(tmp_path_factory.mktemp("stream"))


def batches(count: int, size: int = 5) -> list[np.ndarray]:
    draw = np.random.default_rng(3)
    return [draw.integers(0, 22, size) for _ in range(count)]


def test_batches_come_in_the_order_asked_with_their_states(record):
    whole_STD, wanted = load_whole(record, 3), batches(20)
    with WindowStream(map_whole(record, 3), wanted) as stream:
        found = list(stream)
    assert len(found) == 20
    for (windows_B, bits_BTD), asked_B in zip(found, wanted, strict=True):
        assert windows_B is asked_B
        assert np.array_equal(bits_BTD, whole_STD[asked_B])


def test_the_reader_is_never_further_ahead_than_its_depth(record):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield np.arange(4)

    with WindowStream(map_whole(record, 1), endless(), depth=3) as stream:
        taken = iter(stream)
        for used in range(1, 8):
            next(taken)
            time.sleep(0.02)
            assert len(asked) <= used + 3 + 1
        assert len(asked) > 7  # it did read ahead
    assert "window-stream" not in {thread.name for thread in threading.enumerate()}


def test_a_damaged_chunk_is_raised_where_its_batch_would_have_come(tmp_path):
    made = script.dump(tmp_path)
    path = chunk_file(made.path / GROUP, "full/state_01", 2, 3)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with WindowStream(map_whole(made, 1), [np.arange(4), np.array([3, 20])]) as stream:
        taken = iter(stream)
        assert len(next(taken)[1]) == 4
        with pytest.raises(ArtifactError, match="bytes, not"):
            next(taken)
