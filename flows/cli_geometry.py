"""`dihal geometry FILE`: the three proxies and the score of anybody's activations. Imports neither Prefect nor torch."""

import argparse
import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

from dihal_core.errors import ConfigError, ResourceError

LAYOUT = "an array X of shape (rows, dimensions) or (layers, rows, dimensions), and optionally pairs of shape (m, 2)"


def add_geometry_arguments(commands: Any) -> None:
    """Register the command with its arguments."""
    parser = commands.add_parser(
        "geometry", help="score hidden states from a .npz or .npy file; no study, no model, no server"
    )
    parser.add_argument("file", metavar="FILE", help=f".npz with {LAYOUT}; or .npy with X alone")
    parser.add_argument("--k", type=int, default=None, help="neighbours of each point (default: 10)")
    ridge = parser.add_mutually_exclusive_group()
    ridge.add_argument("--eps", type=float, default=None, help="absolute ridge (default: 1e-6)")
    ridge.add_argument("--eps-relative", type=float, default=None, help="ridge relative to total variance / dimensions")
    parser.add_argument(
        "--curvature-form", default=None, metavar="FORM", help="inverse_top (default), inverse_trace or k_over_trace"
    )
    parser.add_argument("--metric", default=None, metavar="METRIC", help="euclidean (default) or cosine")
    parser.add_argument("--scaling", default=None, metavar="SCALING", help="raw (default), unit_trace or token_rms")
    parser.add_argument("--num-pairs", type=int, default=5000, help="pairs to draw if FILE has none (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="root of that draw (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_geometry(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code.

    Raises
    ------
    ConfigError, NumericsError, ResourceError
        For a file, a setting or values that cannot be used, named in a sentence.
    """
    from pydantic import ValidationError

    from dihal_core.config import ProxySettings
    from dihal_core.geometry import score_layers
    from dihal_core.profiles import explain_validation

    chosen = {
        name: value
        for name in ("k", "eps", "eps_relative", "curvature_form", "metric", "scaling")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.eps_relative is not None:
        chosen["ridge"] = "relative"
    try:
        settings = ProxySettings.model_validate(chosen)
    except ValidationError as error:
        raise ConfigError(explain_validation(error)) from error
    if arguments.num_pairs < 1:
        raise ConfigError(f"num_pairs {arguments.num_pairs} is below 1; give the number of pairs to draw")
    x, pairs_M2 = read_activations(Path(arguments.file).expanduser())
    try:
        scored = score_layers(x, pairs_M2, settings, num_pairs=arguments.num_pairs, seed=arguments.seed)
        found = scored.to_json()
    except MemoryError as error:
        raise ResourceError(
            f"{arguments.file} does not fit into memory ({error}); pass fewer rows or layers"
        ) from error
    print(json.dumps(found, indent=1, allow_nan=False) if arguments.json else _table(found))
    for note in scored.notes():
        print(f"note: {note}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def read_activations(path: Path) -> tuple[Any, Any]:
    """Return X and the pairs (None if there are none) of a `.npz` or `.npy` file; nothing is unpickled.

    Raises
    ------
    ConfigError
        If the file is missing, is neither, or holds no usable X.
    """
    import numpy as np

    if not path.is_file():
        raise ConfigError(f"no file {path}; give a .npz with {LAYOUT}, or a .npy with X alone")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            x, pairs_M2 = loaded, None
        else:
            with loaded:
                if "X" not in loaded.files:
                    held = ", ".join(loaded.files) or "nothing"
                    raise ConfigError(f"{path} holds {held}; it needs {LAYOUT}")
                x = loaded["X"]
                pairs_M2 = loaded["pairs"] if "pairs" in loaded.files else None
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"{path} is no readable .npz or .npy of plain numbers ({type(error).__name__}: {error}); "
            "write it with numpy.savez(file, X=array), without Python objects"
        ) from error
    except MemoryError as error:
        raise ResourceError(f"{path} does not fit into memory ({error}); pass fewer rows or layers") from error
    if x.dtype.kind not in "fiu" or x.ndim not in (2, 3) or 0 in x.shape:
        raise ConfigError(
            f"{path} holds X of shape {x.shape} and type {x.dtype}; pass real numbers of shape (rows, dimensions) or "
            "(layers, rows, dimensions), bfloat16 as float32"
        )
    return x, pairs_M2


def _table(found: dict[str, Any]) -> str:
    settings = found["settings"]
    ridge = (
        f"eps {settings['eps']:g}"
        if settings["ridge"] == "absolute"
        else f"eps {settings['eps_relative']:g} x variance / dimensions"
    )
    lines = [
        f"{settings['rows']} rows, {settings['num_pairs']} pairs {settings['pairs']}, k {settings['k']}, {ridge}, "
        f"{settings['curvature_form']}, {settings['metric']}, {settings['scaling']}",
        f"{'layer':>5} {'local curvature':>16} {'monotonicity':>14} {'effective rank':>15} {'score':>8}",
    ]
    for row in found["layers"]:
        mark = "  <- selected" if row["index"] == found["selected"] else ""
        lines.append(
            f"{row['index']:>5} {row['local_curvature']:>16.6g} {row['monotonicity']:>14.6g} "
            f"{row['effective_rank']:>15.6g} {row['score']:>8.3f}{mark}"
        )
    if len(found["layers"]) == 1:
        lines.append("One layer cannot be compared with others: its score is 0 by definition.")
    return "\n".join(lines)
