"""What a dump costs, as ratios within one run: `python tests/benchmarks/bench_dump.py [--model asset|random|llama-8b]`.

Every round runs all modes one after the other, so that a busy machine slows all of them; the tables show
medians over rounds of the ratio to the same round's forward pass. `asset` is the quickstart's model (its
file lies under DIHAL_HOME after `dihal setup`), `random` a small random Llama, `llama-8b` the real config
with random weights (needs a GPU). Prints Markdown.
"""

import argparse
import dataclasses
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bench_peers
import bench_store
import numpy as np
import torch

from dihal_core.activations.names import GROUP
from dihal_core.activations.plan import DumpPlan, estimate_bytes, plan_bytes, sample_rows
from dihal_core.activations.run import dump_states
from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device
from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError
from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.seeding import stream
from dihal_core.store import StageStore, resolve_home

POSITIONS, SAMPLED = 128, 4


def settings_for(model: str, home: Path) -> BackboneSettings:
    """Return what to load."""
    if model == "asset":
        backbone = load_study("quickstart").backbone
        found = sorted((home / "assets").glob(f"{backbone.identifier}-*/**/*.gguf"))
        if not found:
            raise AssetError(
                f"no file of {backbone.identifier} under {home / 'assets'}; run `dihal setup`, or --model random"
            )
        return backbone.model_copy(update={"source": "gguf", "identifier": str(found[0])})
    if model == "llama-8b":
        heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336}
        real = load_study("paper-llama-3.1-8b").backbone
        return real.model_copy(update={"source": "random", "tokenizer": "bytes", "config_overrides": heads})
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1024}
    return BackboneSettings(
        name="random Llama, 12 blocks of 384", source="random", identifier="bench", model_type="llama", num_layers=12,
        hidden_size=384, vocab_size=8192, num_parameters=1, config_overrides=heads,
    )  # fmt: skip


def plan_for(backbone: Backbone, windows: int, batch: int, everything: bool) -> DumpPlan:
    """Return a plan over random tokens: sampled rows of all layers, or every state of every layer as well."""
    tokens_NT = stream(0, "bench").integers(0, backbone.vocab_size, (windows, POSITIONS)).astype(np.int32)
    lengths_N, document_N = np.full(windows, POSITIONS, np.int32), np.arange(windows, dtype=np.int32)
    layers = tuple(range(backbone.num_layers + 1))
    return DumpPlan(
        tokens_NT=tokens_NT, lengths_N=lengths_N, document_N=document_N, separator_id=0,
        rows_M3=sample_rows(tokens_NT, lengths_N, document_N, SAMPLED, 4, 0), table_layers=layers, whole_layers=layers,
        whole_sequences=windows if everything else 0, positions_per_sequence=SAMPLED, batch_sequences=batch,
        unit_batches=2, hidden_size=backbone.hidden_size,
    )  # fmt: skip


@dataclasses.dataclass
class Cost:
    """Seconds of one mode in one round; `steady` leaves out metadata and the final check of all chunks."""

    wall: float
    cpu: float
    steady: float


def measured(work: Callable[[], float | None]) -> Cost:
    """Run `work`, which may return its own steady seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    steady = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(wall, cpu, wall if steady is None else steady)


def forward(backbone: Backbone, plan: DumpPlan) -> None:
    """Forward only: no head, nothing kept."""
    for start in range(0, plan.windows, plan.batch_sequences):
        backbone.final(torch.from_numpy(plan.batch(start)))
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()


def dump(backbone: Backbone, plan: DumpPlan, keep: list[Path] | None = None) -> float:
    """Dump into a fresh store; return steady seconds."""
    home = Path(tempfile.mkdtemp(prefix="bench-dump-", dir=bench_store.scratch()))
    store = StageStore(home, "activations", "k")
    rate = dump_states(backbone, plan, store, {"name": backbone.name}, silent)
    if keep is None:
        bench_store.remove(home)
    else:
        keep.append(store.path / GROUP)
    return plan.windows * POSITIONS / rate


@torch.no_grad()
def naive(backbone: Backbone, plan: DumpPlan) -> None:
    """What most scripts do: output_hidden_states of the whole model (head included) and torch.save per batch."""
    home = Path(tempfile.mkdtemp(prefix="bench-naive-", dir=bench_store.scratch()))
    for start in range(0, plan.windows, plan.batch_sequences):
        tokens_BT = torch.from_numpy(plan.batch(start)).to(backbone.device)
        states = backbone.model(tokens_BT, output_hidden_states=True, use_cache=False).hidden_states
        torch.save([state.cpu() for state in states], home / f"{start}.pt")
    bench_store.remove(home)


def peer(backbone: Backbone, plan: DumpPlan, save: bench_peers.Save) -> None:
    """Every state of every layer, by a peer."""
    home = Path(tempfile.mkdtemp(prefix="bench-peer-", dir=bench_store.scratch()))
    for start in range(0, plan.windows, plan.batch_sequences):
        save(torch.from_numpy(plan.batch(start)).to(backbone.device), home / f"{start}.pt")
    bench_store.remove(home)


def throughput(backbone: Backbone, windows: int, batch: int, rounds: int) -> tuple[list[str], Path]:
    """Return the table of modes and the folder of one dump of everything."""
    sampled, everything = (plan_for(backbone, windows, batch, flag) for flag in (False, True))
    kept: list[Path] = []
    modes: dict[str, Callable[[], float | None]] = {
        "forward only (no head, nothing saved)": lambda: forward(backbone, sampled),
        "forward only again (control)": lambda: forward(backbone, sampled),
        f"dump, {SAMPLED} positions a window of all layers": lambda: dump(backbone, sampled),
        "dump, every position of all layers": lambda: dump(backbone, everything, None if kept else kept),
        "output_hidden_states + torch.save (head included)": lambda: naive(backbone, everything),
    }
    for name, save in bench_peers.installed(backbone).items():
        modes[name] = lambda save=save: peer(backbone, everything, save)
    forward(backbone, plan_for(backbone, batch, batch, False))
    costs: dict[str, list[Cost]] = {name: [] for name in modes}
    for _ in range(rounds):
        for name, work in modes.items():
            costs[name].append(measured(work))
    base, tokens = costs["forward only (no head, nothing saved)"], windows * POSITIONS
    lines = [
        f"{backbone.name}, {backbone.num_layers} blocks, d {backbone.hidden_size}, {backbone.dtype}, {backbone.device}; "
        f"{windows} windows of {POSITIONS}, batches of {batch}, {torch.get_num_threads()} thread, {rounds} rounds; "
        f"everything is {sum(plan_bytes(everything).values()) / 1e6:.0f} MB",
        "",
        "| mode | tokens/s | speed / forward | speed / forward, with metadata and final check | CPU / forward |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in costs.items():
        steady = statistics.median(b.wall / c.steady for b, c in zip(base, found, strict=True))
        whole = statistics.median(b.wall / c.wall for b, c in zip(base, found, strict=True))
        cpu = statistics.median(c.cpu / b.cpu for b, c in zip(base, found, strict=True))
        rate = tokens / statistics.median(c.steady for c in found)
        lines.append(f"| {name} | {rate:.0f} | {steady:.2f} | {whole:.2f} | {cpu:.2f} |")
    lines += [f"| {name} | not installed | | | |" for name in bench_peers.PEERS if name not in modes]
    return lines, kept[0]


def shares() -> list[str]:
    """Return the geometry part against a full dump at the paper's scale: arithmetic."""
    lines = [
        "| 300K windows of 128, d 4096, bf16 | geometry part (1 position) | every position | share |",
        "|---|---:|---:|---:|",
    ]
    for name, layers in (("Llama-3.1-8B, 33 states", 33), ("Qwen3-8B, 37 states", 37)):
        part = estimate_bytes(
            hidden_size=4096, table_layers=layers, candidate_layers=layers, sequences=300_000, positions_per_sequence=1,
            whole_sequences=300_000, window_tokens=128,
        )  # fmt: skip
        share = part["geom"] / part["full"]
        lines.append(f"| {name} | {part['geom'] / 1e9:.0f} GB | {part['full'] / 1e12:.2f} TB | {share:.2%} |")
    return lines


def peak_memory(windows: int) -> None:
    """Dump everything of the random model in this process and print its peak memory; run in a process of its own."""
    backbone = load_backbone(settings_for("random", Path()), {}, "cpu", 0)
    dump(backbone, plan_for(backbone, windows, 16, True))
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def memory_table() -> list[str]:
    """Return peak memory at two N."""
    lines = ["| windows | dump of everything | peak memory of the process |", "|---:|---:|---:|"]
    for windows in (64, 256):
        done = subprocess.run(
            [sys.executable, __file__, "--peak-memory", str(windows)], capture_output=True, text=True, check=True
        )
        model = settings_for("random", Path())
        size = (model.num_layers + 1) * windows * POSITIONS * model.hidden_size * 2
        lines.append(f"| {windows} | {size / 1e6:.0f} MB | {int(done.stdout) / 1e6:.0f} MB |")
    return lines


def main() -> None:
    """Run everything once and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("asset", "random", "llama-8b"), default="random")
    parser.add_argument("--home", default=None, help="folder with assets (default: $DIHAL_HOME or ./runs)")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-memory", type=int, default=None, help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak_memory is not None:
        peak_memory(arguments.peak_memory)
        return
    device = resolve_device("auto")
    if arguments.model == "llama-8b" and device == "cpu":
        parser.error("--model llama-8b needs a GPU: 16 GB of weights, 15 TFLOP a batch")
    out, started = io.StringIO(), time.monotonic()
    backbone = load_backbone(settings_for(arguments.model, resolve_home(arguments.home)), {}, device, 0)
    lines, group = throughput(backbone, arguments.windows, arguments.batch, arguments.rounds)
    sections = {
        "Throughput and CPU cost": lines,
        "Chunk writes": bench_store.chunk_writes(),
        "Row gathers": bench_store.row_gathers(),
        "Archive codecs": bench_store.codecs(group, backbone.num_layers),
        "The geometry part": shares(),
        "Peak memory": memory_table(),
    }
    bench_store.remove(group.parents[2])
    for title, table in sections.items():
        out.write(f"\n### {title}\n\n" + "\n".join(table) + "\n")
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{out.getvalue()}\n{time.monotonic() - started:.0f} s in all; {versions}.")


if __name__ == "__main__":
    main()
