"""A dump of a tiny random model as a program of its own, so that a test can kill it.

`dump_script.py HOME` makes and finishes the store; `dump_script.py HOME join` makes units of it
beside a second process that does the same;
`dump_script.py HOME limit BYTES` may write no file larger than that, as on a disk that is nearly full.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from dihal_core.activations.names import GROUP
from dihal_core.activations.plan import DumpPlan, sample_rows
from dihal_core.activations.run import dump_states
from dihal_core.activations.verify import verify
from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.config import BackboneSettings
from dihal_core.progress import silent
from dihal_core.seeding import stream
from dihal_core.store import StageRecord, StageStore

LAYERS, WIDTH, POSITIONS, SEPARATOR = 4, 16, 24, 40


def tiny_settings() -> BackboneSettings:
    overrides = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24, "initializer_range": 0.5}
    return BackboneSettings(
        name="tiny", source="random", identifier="dump", model_type="llama", num_layers=LAYERS, hidden_size=WIDTH,
        vocab_size=41, num_parameters=1, config_overrides=overrides,
    )  # fmt: skip


def tiny_backbone() -> Backbone:
    return load_backbone(tiny_settings(), {}, seed=2)


def tiny_plan(
    windows: int = 90, *, whole: int = 22, per_window: int = 3, short: bool = True, policy: str = "random"
) -> DumpPlan:
    draw = stream(0, "dump", "tokens")
    tokens_NT = draw.integers(0, SEPARATOR, (windows, POSITIONS)).astype(np.int32)
    tokens_NT[:, 0] = SEPARATOR
    lengths_N = draw.integers(5 if short else 12, POSITIONS + 1, windows).astype(np.int32)
    document_N = (np.arange(windows) // 3).astype(np.int32)
    return DumpPlan(
        tokens_NT=tokens_NT,
        lengths_N=lengths_N,
        document_N=document_N,
        separator_id=SEPARATOR,
        rows_M3=sample_rows(tokens_NT, lengths_N, document_N, per_window, 4, seed=7, policy=policy),
        table_layers=(0, 1, 2, 3, 4),
        whole_layers=(1, 2, 3),
        whole_sequences=whole,
        positions_per_sequence=per_window,
        batch_sequences=4,
        unit_batches=2,
        hidden_size=WIDTH,
        token_policy=policy,
        skip_positions=4,
    )


def dump(home: Path, plan: DumpPlan | None = None) -> StageRecord:
    """Make, or go on making, the store under `home` and finish it."""
    torch.set_num_threads(1)
    plan = plan or tiny_plan()
    backbone, store = tiny_backbone(), StageStore(home, "activations", "k")
    dump_states(backbone, plan, store, {"name": "tiny"}, silent)
    verify(backbone, plan, store.path / GROUP, seed=0)
    return store.finalize({}, {}, None)


def join(home: Path, plan: DumpPlan | None = None) -> None:
    """Make units of the store under `home` until all are committed, beside whoever else does."""
    torch.set_num_threads(1)
    store = StageStore(home, "activations", "k", join=True)
    dump_states(tiny_backbone(), plan or tiny_plan(), store, {"name": "tiny"}, silent, check=False)


if __name__ == "__main__":
    home = Path(sys.argv[1])
    if sys.argv[2:3] == ["join"]:
        tiny_backbone()
        (home / f"ready-{os.getpid()}").touch()
        while len(list(home.glob("ready-*"))) < 2:
            time.sleep(0.005)
        join(home, tiny_plan(400, whole=100, short=False))
    else:
        plan = tiny_plan()
        if sys.argv[2:3] == ["limit"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
            plan = tiny_plan(40)
        print(dump(home, plan).digest)
