"""Several processes on one store: disjoint units, the same bytes."""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dihal_core.activations.leases import UnitLeases
from dihal_core.activations.names import GROUP
from dihal_core.activations.run import dump_states
from dihal_core.activations.workers import Work, helpers
from dihal_core.errors import ArtifactError
from dihal_core.files import hash_files
from dihal_core.progress import silent
from dihal_core.store import StageStore

SCRIPT = Path(__file__).with_name("dump_script.py")
_spec = importlib.util.spec_from_file_location("dump_script", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def plan():
    return script.tiny_plan(400, whole=100, short=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return script.dump(tmp_path_factory.mktemp("alone"), plan())


def test_two_processes_share_the_units_and_make_the_store_that_one_makes(alone, tmp_path):
    arguments = [sys.executable, SCRIPT, tmp_path, "join"]
    both = [subprocess.Popen(arguments, env=ONE_THREAD) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    store = StageStore(tmp_path, "activations", "k")
    units = {name: record for name, record in store.committed().items() if name.startswith("unit")}
    assert len(units) == 50
    makers = {record["process"] for record in units.values()}
    assert makers == {process.pid for process in both}
    assert script.dump(tmp_path, plan()).digest == alone.digest


def test_a_helper_that_fails_is_named_and_its_units_are_made_by_the_others(alone, tmp_path, caplog):
    broken = script.tiny_settings().model_copy(update={"num_layers": 5, "source": "folder", "identifier": "/nowhere"})
    work = Work(broken, {}, 2, 1, plan(), tmp_path, "k", {"name": "tiny"})
    store = StageStore(tmp_path, "activations", "k")
    with caplog.at_level("WARNING"), helpers(work, 1, "cpu"):
        dump_states(script.tiny_backbone(), plan(), store, {"name": "tiny"}, silent)
    assert "dump-helper-1 stopped: AssetError: backbone folder /nowhere has no config.json" in caplog.text
    assert hash_files(store.path / GROUP) == hash_files(alone.path / GROUP)


def test_a_lease_excludes_other_processes_and_dies_with_a_killed_holder(tmp_path):
    code = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from dihal_core.activations.leases import UnitLeases
        leases = UnitLeases(Path({str(tmp_path / "units")!r}))
        assert leases.take(3)
        print("held", flush=True)
        time.sleep(600)
        """
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    with UnitLeases(tmp_path / "units") as leases:
        assert not leases.take(3)
        assert leases.take(2)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert leases.take(3)


def test_a_finished_store_is_never_opened_for_writing(alone):
    with pytest.raises(ArtifactError, match="finished and immutable"):
        StageStore(alone.path.parent.parent, "activations", "k")


def test_spans_are_single_units_unless_a_chunk_reaches_over_them():
    assert [len(span) for span in plan().spans()] == [1] * 50
    ragged = script.tiny_plan(short=True)
    assert max(len(span) for span in ragged.spans()) > 1
    assert [unit for span in ragged.spans() for unit in span] == ragged.units()
