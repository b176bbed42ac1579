"""The locate flow against a real Prefect server: a page without a bridge, and stores that a full study shares."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dihal_core.activations.reader import load_pool
from dihal_core.backbones.loading import load_backbone
from dihal_core.corpus.windows import load_windows
from dihal_core.inspection import inspect_store
from dihal_core.planning import plan_study
from dihal_core.profiles import load_study
from dihal_core.seeding import stream
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


def test_metrics_are_measured_at_every_layer_and_over_every_pair_of_layers(located):
    _, result = located
    metrics = json.loads(Path(result["report"]).with_name("locate.json").read_bytes())["metrics"]
    layers = list(load_study("smoke").table_layers)
    assert [row["layer"] for row in metrics["layers"]] == layers
    fits = [row["ridge_r2"] for row in metrics["layers"]]
    assert fits[0] == max(fits)  # the embedding output predicts itself best
    assert fits[0] > 0.9
    assert all(row["logit_lens_ce"] > 0 for row in metrics["layers"])
    for name in ("cka", "neighbour_overlap"):
        matrix = np.array(metrics[name]["matrix"])
        assert matrix.shape == (len(layers), len(layers))
        assert np.diag(matrix) == pytest.approx(1.0)
        assert matrix == pytest.approx(matrix.T)


def test_the_last_layer_read_out_is_the_models_own_prediction(located):
    """The logit lens at layer L is the teacher: its loss is the model's on the same tokens."""
    home, result = located
    settings = pin_device(load_study("smoke"))
    data = json.loads(Path(result["report"]).with_name("locate.json").read_bytes())["metrics"]
    records = {}
    for stage in ("assets", "corpus", "activations"):
        made = [inspect_store(home, stage, path.name).record for path in (home / stage).glob("*")]
        records[stage] = next(record for record in made if record) if stage != "assets" else {}
    pool, windows = load_pool(records["activations"], 0), load_windows(records["corpus"], "train")
    backbone = load_backbone(settings.backbone, {}, "cpu", settings.seed)
    order = stream(settings.seed, "geometry", "metric rows").permutation(len(pool.rows_ND))
    losses = []
    for row in order[: settings.metrics.rows]:
        sequence, position = int(pool.sequence_N[row]), int(pool.position_N[row])
        if position + 1 < windows.lengths_N[sequence]:
            tokens = torch.from_numpy(np.array(windows.tokens_NT[sequence : sequence + 1])).long()
            logits = backbone.logits(backbone.final(tokens))[0, position].float()
            losses.append(float(torch.nn.functional.cross_entropy(logits, tokens[0, position + 1])))
    assert data["layers"][-1]["logit_lens_ce"] == pytest.approx(np.mean(losses), rel=2e-2)
