"""Costs of the store alone: chunk writes, row gathers, codecs. Used by `bench_dump.py`."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec

from dihal_core.activations.chunks import ArrayAppender
from dihal_core.activations.codecs import CODECS, compressors
from dihal_core.activations.names import whole_array
from dihal_core.activations.reader import map_array

ROWS, POSITIONS, WIDTH, CHUNK, BATCH = 512, 128, 576, 64, 16
ROUNDS = 5


def scratch() -> str | None:
    """Return the folder for temporary stores: $DIHAL_BENCH_DIR or the system's."""
    return os.environ.get("DIHAL_BENCH_DIR")


def remove(folder: Path) -> None:
    """Remove a temporary store."""
    shutil.rmtree(folder, ignore_errors=True)


def states() -> np.ndarray:
    """Return bit patterns that look like bfloat16 states, (ROWS, POSITIONS, WIDTH) uint16."""
    values = np.random.default_rng(0).standard_normal((ROWS, POSITIONS, WIDTH), dtype=np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def make(
    root: zarr.Group, name: str, codec: str | None = None, shape: tuple[int, ...] = (ROWS, POSITIONS, WIDTH)
) -> Any:
    """Create one array as a dump does."""
    return root.create_array(
        name, shape=shape, chunks=(min(CHUNK, shape[0]), *shape[1:]), dtype="uint16", serializer=BytesCodec(endian="little"),
        compressors=compressors(codec), fill_value=0,
    )  # fmt: skip


def costs(modes: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Return `{mode: (median CPU seconds, median wall seconds)}` over interleaved rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
    for _ in range(rounds):
        for name, work in modes.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (statistics.median(c for c, _ in all_), statistics.median(w for _, w in all_))
        for name, all_ in found.items()
    }


def chunk_writes() -> list[str]:
    """Write the same rows in batches with the direct writer and by zarr-python assignment of whole chunks."""
    bits_NTD, home = states(), Path(tempfile.mkdtemp(prefix="bench-write-", dir=scratch()))
    root = zarr.open_group(home / "g", mode="w", zarr_format=3)
    make(root, "direct")
    theirs = make(root, "theirs")

    def direct() -> None:
        appender = ArrayAppender(home / "g", "direct", bits_NTD.shape, CHUNK, 0)
        for start in range(0, ROWS, BATCH):
            appender.append(bits_NTD[start : start + BATCH])

    def assignment() -> None:
        for start in range(0, ROWS, CHUNK):
            theirs[start : start + CHUNK] = bits_NTD[start : start + CHUNK]

    found = costs({"direct writer (fsync included)": direct, "zarr-python assignment": assignment})
    pairs = [
        (path, home / "g" / "theirs" / path.relative_to(home / "g" / "direct"))
        for path in (home / "g" / "direct" / "c").rglob("*")
        if path.is_file()
    ]
    same = all(mine.read_bytes() == other.read_bytes() for mine, other in pairs)
    remove(home)
    base, lines = found["zarr-python assignment"], []
    for name, (cpu, wall) in found.items():
        lines.append(f"| {name} | {bits_NTD.nbytes / 1e6 / cpu:.0f} | {base[0] / cpu:.1f} | {base[1] / wall:.1f} |")
    return [
        f"{bits_NTD.nbytes / 1e6:.0f} MB in {len(pairs)} chunks, {ROUNDS} rounds; files byte-identical: {'yes' if same else 'NO'}",
        "",
        "| writer | MB per CPU second | CPU: zarr / this | wall: zarr / this |",
        "|---|---:|---:|---:|",
        *lines,
    ]


def row_gathers() -> list[str]:
    """Gather 12.5 % of the rows at random from the same chunk files."""
    bits_NTD, home = states(), Path(tempfile.mkdtemp(prefix="bench-gather-", dir=scratch()))
    array = make(zarr.open_group(home / "g", mode="w", zarr_format=3), "rows")
    array[:] = bits_NTD
    draw = np.random.default_rng(1)
    rows_n = draw.choice(ROWS, ROWS // 8, replace=False)
    mapped = map_array(home / "g", "rows", check=False)
    checked = map_array(home / "g", "rows")
    assert np.array_equal(mapped.gather(rows_n), array.oindex[rows_n])
    found = costs(
        {
            "memory map, chunks trusted (store was re-hashed)": lambda: mapped.gather(rows_n),
            "memory map, chunks checked at first touch, later gathers": lambda: checked.gather(rows_n),
            "memory map, first gather with its check": lambda: map_array(home / "g", "rows").gather(rows_n),
            "zarr oindex": lambda: array.oindex[rows_n],
        }
    )
    remove(home)
    base = found["zarr oindex"]
    size = len(rows_n) * POSITIONS * WIDTH * 2 / 1e6
    return [
        f"{len(rows_n)} of {ROWS} windows of {POSITIONS} x {WIDTH}, chunks of {CHUNK}, page cache warm, {ROUNDS} rounds",
        "",
        "| reader | MB/s | CPU: oindex / this | wall: oindex / this |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {size / wall:.0f} | {base[0] / cpu:.1f} | {base[1] / wall:.1f} |"
            for name, (cpu, wall) in found.items()
        ),
    ]


def codecs(group: Path, num_layers: int) -> list[str]:
    """Compress real states of three layers of a dump with every codec."""
    source: Any = zarr.open_group(group, mode="r")
    bits = {layer: source[whole_array(layer)][:] for layer in (1, num_layers // 2, num_layers - 1)}
    size, home = (
        sum(values.nbytes for values in bits.values()),
        Path(tempfile.mkdtemp(prefix="bench-codec-", dir=scratch())),
    )
    lines = []
    for codec in CODECS:
        root = zarr.open_group(home / codec, mode="w", zarr_format=3)
        arrays = {layer: make(root, f"l{layer}", codec, values.shape) for layer, values in bits.items()}

        def write(arrays: dict[int, Any] = arrays) -> None:
            for layer, values in bits.items():
                arrays[layer][:] = values

        found = costs({"write": write, "read": lambda arrays=arrays: [array[:] for array in arrays.values()]}, rounds=2)
        same = all(np.array_equal(arrays[layer][:], values) for layer, values in bits.items())
        stored = sum(array.nbytes_stored() for array in arrays.values())
        lines.append(
            f"| {codec} | {stored / size:.3f} | {size / 1e6 / found['write'][0]:.0f} | {size / 1e6 / found['read'][0]:.0f} | "
            f"{'none: every bit equal' if same else 'CHANGED'} |"
        )
    remove(home)
    return [
        f"{size / 1e6:.0f} MB of real states (layers {', '.join(map(str, bits))}), through zarr-python, CRC32C after each codec",
        "",
        "| codec | size / raw | write, MB per CPU second | read, MB per CPU second | effect on the geometry |",
        "|---|---:|---:|---:|---|",
        *lines,
    ]
