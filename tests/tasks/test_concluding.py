"""A comparison of studies on a remote home is there for every machine."""

import json
import os

import pytest
from prefect.artifacts import Artifact

from dihal_core.comparing import study_row
from dihal_core.remote import home as remote
from dihal_core.remote.link import read_shared
from dihal_core.store import resolve_home
from tasks.concluding import comparison_outcome

RESULT = {
    "settings": {"profile": "smoke", "seed": 0, "backbone": {"name": "tiny", "num_layers": 4}},
    "results": {"score": {"selected_layer": 2, "selection_probability": {"2": 0.8}, "layers": []}},
}


@pytest.mark.usefixtures("prefect_server")
def test_the_pages_of_a_comparison_are_shared_by_all_machines_of_a_remote_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "first"))
    address = f"memory://comparison-{os.getpid()}"
    found = {"rows": [study_row("one", RESULT), study_row("two", RESULT)], "differences": []}
    result = comparison_outcome(resolve_home(address), found)
    told = Artifact.get("comparison-one-two").data
    assert f"Data: `{result['shared']}` (to have it here: `DIHAL_HOME={address} dihal compare one two`)" in told
    assert f"Study `{address}/studies/one`" in told
    assert str(tmp_path) not in told
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path / "second"))
    remote._remote_home.cache_clear()
    name = result["shared"].removeprefix(f"{address}/")
    assert name == "comparisons/one-two.json"
    there = json.loads(read_shared(resolve_home(address), name))
    assert [row["selected"] for row in there["rows"]] == [2, 2]
    assert b"one" in read_shared(resolve_home(address), "comparisons/one-two.csv")
    local = comparison_outcome(tmp_path / "runs", found)
    assert "shared" not in local
