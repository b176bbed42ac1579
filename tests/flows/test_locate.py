"""The locate flow against a real Prefect server: a page without a bridge, and stores that a full study shares."""

import csv
import json
from pathlib import Path

import pytest

from dihal_core.planning import plan_study
from dihal_core.profiles import load_study
from dihal_core.study import pin_device
from flows.locate import locate

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def located(tmp_path_factory, prefect_server):
    folder = tmp_path_factory.mktemp("located") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIHAL_HOME", str(folder))
        result = locate(profile="smoke")
    return folder, result


def test_locate_ends_with_an_answer_and_a_page_and_trains_nothing(located):
    home, result = located
    assert result["answer"][0].startswith("Where      layer")
    assert len(result["answer"]) == 5
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "no bridge was trained for this page" in page
    assert "Traceback" not in page
    assert not (home / "sweep").exists()
    assert not (home / "replace").exists()


def test_the_page_names_the_same_layer_as_its_data(located):
    _, result = located
    data = json.loads(Path(result["report"]).with_name("locate.json").read_bytes())
    assert result["answer"] == data["answer"]
    assert f"Layer {data['score']['selected_layer']} of 4" in Path(result["report"]).read_text(encoding="utf-8")


def test_every_subsample_of_every_layer_is_a_row(located):
    _, result = located
    settings = load_study("smoke")
    with open(Path(result["report"]).with_name("subsamples.csv"), newline="") as handle:
        rows = list(csv.DictReader(handle))
    each = settings.geometry.large_count + settings.geometry.small_count
    assert len(rows) == each * len(settings.table_layers)
    assert {row["group"] for row in rows} == {"large", "small"}
    assert all(float(row["effective_rank"]) >= 1 for row in rows)


def test_a_full_study_finds_what_locate_made(located):
    home, _ = located
    rows = {row["stage"]: row["status"] for row in plan_study(pin_device(load_study("smoke")), home)}
    assert {name for name, status in rows.items() if status == "cached"} >= {
        "corpus",
        "activations",
        "geometry",
        "score",
    }
    again = {row["stage"]: row["status"] for row in plan_study(pin_device(load_study("smoke")), home, "locate")}
    assert set(again.values()) == {"cached"}
