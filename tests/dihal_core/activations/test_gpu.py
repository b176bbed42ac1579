"""The dump on a CUDA device. Run with `make test-gpu`; nothing here was run where there is none."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from dihal_core.activations.names import GROUP
from dihal_core.activations.reader import load_pool
from dihal_core.activations.run import dump_states
from dihal_core.activations.verify import verify
from dihal_core.backbones.loading import load_backbone
from dihal_core.progress import silent
from dihal_core.store import StageStore

_spec = importlib.util.spec_from_file_location("dump_script", Path(__file__).with_name("dump_script.py"))
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def dump_on(device: str, home: Path, **changes):
    backbone = load_backbone(script.tiny_settings().model_copy(update=changes), {}, device, seed=2)
    plan, store = script.tiny_plan(), StageStore(home, "activations", "k")
    dump_states(backbone, plan, store, {"name": "tiny"}, silent)
    assert verify(backbone, plan, store.path / GROUP, seed=0, batches=4)["verified_rows"] > 0
    return store.finalize({}, {}, None)


def test_a_dump_on_cuda_repeats_itself_and_agrees_with_the_cpu(tmp_path):
    first, again = dump_on("cuda", tmp_path / "a"), dump_on("cuda", tmp_path / "b")
    assert first.digest == again.digest
    on_cpu = load_pool(dump_on("cpu", tmp_path / "c"), 4).rows_ND
    found = load_pool(first, 4).rows_ND
    relative = np.linalg.norm(found - on_cpu, axis=1) / np.linalg.norm(on_cpu, axis=1)
    assert np.median(relative) < 0.05  # bfloat16 sums in another order


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_model_spread_over_two_gpus_gives_the_states_of_one(tmp_path):
    spread = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers.0": 0, "model.layers.1": 0}
    spread |= {"model.layers.2": 1, "model.layers.3": 1, "model.norm": 1, "lm_head": 1}
    one, two = dump_on("cuda", tmp_path / "one"), dump_on("cuda", tmp_path / "two", device_map=spread)
    assert one.digest == two.digest
