"""A geometry stage on small stored activations, also as a program a test can kill: `geometry_script.py HOME LAYER STOP`.

STOP is the progress at which it dies; a fraction means within the resampling of documents.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from dihal_core.activations.names import GROUP, ROWS, SINKS, pool_array
from dihal_core.config import StudySettings
from dihal_core.contract import SettingsView, StageContext
from dihal_core.geometry.protocol import build_geometry
from dihal_core.geometry.score import build_score
from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord, StageStore

LAYERS = range(6)
WINDOWS, POSITIONS, WIDTH = 80, 3, 24


def states(layer: int) -> np.ndarray:
    """Clustered rows whose scale grows with the layer; layer 0 repeats rows, layer 3 has outlier rows."""
    rng = np.random.default_rng(layer)
    window = np.repeat(np.arange(WINDOWS), POSITIONS)
    x_ND = rng.standard_normal((WINDOWS, WIDTH))[window] + rng.standard_normal((len(window), WIDTH))
    x_ND = (layer + 1.0) ** 1.5 * x_ND * np.exp(-np.arange(WIDTH) / 12.0) + 0.5
    if layer == 0:
        x_ND = x_ND[rng.integers(0, 120, len(window))]
    if layer == 3:
        x_ND[:5, 7] += 500.0
    return x_ND


def write_activations(home: Path, x: dict[int, np.ndarray] | None = None) -> StageRecord:
    """Write the geometry pools of all layers as the activations stage does, bfloat16 bits with CRC32C."""
    arrays = x if x is not None else {layer: states(layer) for layer in LAYERS}
    store = StageStore(home, "activations", "k")
    root = zarr.open_group(store.path / GROUP, mode="w", zarr_format=3)
    count = len(next(iter(arrays.values())))
    sequence_N = np.arange(count) // POSITIONS
    rows_N3 = np.stack([sequence_N, 4 + np.arange(count) % POSITIONS, sequence_N // 2], axis=1).astype(np.int32)
    for name, values in [(ROWS, rows_N3)] + [(pool_array(layer), _bits(x_ND)) for layer, x_ND in arrays.items()]:
        array = root.create_array(
            name, shape=values.shape, chunks=(64, values.shape[1]), dtype=values.dtype,
            serializer=BytesCodec(endian="little"), compressors=[Crc32cCodec()],
        )  # fmt: skip
        array[:] = values
    one = {"median_norm": 1.0, "position_0_norm_ratio": 22.0, "massive_tokens": 5, "massive_at_position_0": 4}
    store.write_json(
        SINKS,
        {"windows": 4, "tokens": 40, "ratio": 10.0, "skipped_positions": 4, "layers": {str(k): one for k in arrays}},
    )
    return store.finalize({}, {}, None)


def _bits(x_ND: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(x_ND, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)


def settings(**geometry) -> StudySettings:
    """The smoke profile with a protocol of several commit groups."""
    data = load_study("smoke").model_dump()
    data["activations"] |= {"positions_per_sequence": 6}
    data["backbone"] |= {"num_layers": 5}
    data["geometry"] |= {"large_count": 23, "large_size": 100, "small_count": 12, "small_size": 20, "num_pairs": 150}
    data["geometry"] |= {"bootstrap_replicates": 30, **geometry}
    return StudySettings.model_validate(data)


def context(home: Path, record: StageRecord, layer: int, study: StudySettings, progress=silent) -> StageContext:
    view = SettingsView(study, "geometry", (*STAGES["geometry"].reads, *STAGES["geometry"].unkeyed))
    store = StageStore(home, "geometry", f"L{layer:02d}")
    return StageContext(view, layer, {"activations": record}, {}, store, progress)


def build(
    home: Path, record: StageRecord, layer: int, study: StudySettings | None = None, progress=silent
) -> StageRecord:
    """Run the builder and finish its store."""
    made = context(home, record, layer, study or settings(), progress)
    return made.store.finalize(build_geometry(made), {}, layer)


def score_context(home: Path, geometry: dict[int, StageRecord], study: StudySettings) -> StageContext:
    view = SettingsView(study, "score", STAGES["score"].reads)
    return StageContext(view, None, {"geometry": geometry}, {}, StageStore(home, "score", "k"), silent)


def build_scores(home: Path, geometry: dict[int, StageRecord], study: StudySettings | None = None) -> StageRecord:
    """Run the score builder and finish its store."""
    made = score_context(home, geometry, study or settings())
    return made.store.finalize(build_score(made), {}, None)


if __name__ == "__main__":
    home, layer, stop = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def kill(done: float, total: float, unit: str) -> None:
        resampling = done != int(done)
        if (resampling and done >= stop) if stop != int(stop) else done >= stop:
            os.kill(os.getpid(), signal.SIGKILL)

    store = home / "activations" / "k"
    print(build(home, StageRecord("activations", "k", str(store), ""), layer, progress=kill).digest)
