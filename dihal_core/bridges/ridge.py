"""Stage `ridge`: the split, the condition statistics and the one factorisation that all layers share."""

import dataclasses
import json
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.bridges.fitting import fit_condition
from dihal_core.bridges.linear import RidgeFactor
from dihal_core.bridges.splits import split_by_document
from dihal_core.bridges.standardise import Standardiser
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import ArtifactError
from dihal_core.store import StageRecord

THREADS = 2
"""Intra-op threads; fixed, because the factor's last bits depend on it."""
TENSORS = "condition.safetensors"
SPLIT = "split.json"


@dataclasses.dataclass(frozen=True)
class SharedRidge:
    """What the ridge stage hands to every layer of the sweep."""

    train: np.ndarray
    """Indices of training windows, in corpus order."""
    validation: np.ndarray
    fitted: np.ndarray
    """The training windows that statistics and ridge are fitted on."""
    condition: Standardiser
    factor: RidgeFactor


def build_ridge(context: StageContext) -> dict[str, Any]:
    """Split the sweep's windows by document and factorise the condition features (see `SharedRidge`)."""
    settings = context.settings
    use_threads(THREADS)
    windows = load_windows(context.inputs["corpus"], "train")
    backbone = load_backbone(
        settings.backbone, context.inputs["assets"], resolve_device(settings.compute.device), settings.seed
    )
    documents_N = windows.document_N[: settings.sweep.num_sequences]
    train, validation = split_by_document(documents_N, settings.sweep.validation_fraction, settings.seed)
    fitted = train[: settings.bridge.ridge_windows]

    def embed(chunk: np.ndarray) -> torch.Tensor:
        return backbone.embed(torch.from_numpy(windows.tokens_NT[chunk]))

    lengths_N = torch.from_numpy(windows.lengths_N).long()
    condition, factor = fit_condition(embed, lengths_N, fitted, settings.bridge, "embedding output", context.progress)
    tensors = {
        "condition.mean_D": condition.mean_D,
        "condition.scale_D": condition.scale_D,
        "cholesky_FF": factor.cholesky_FF,
        "centre_F": factor.centre_F,
    }
    context.store.write_bytes(
        TENSORS, safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()})
    )
    facts = {
        "train": train.tolist(),
        "validation": validation.tolist(),
        "fitted": fitted.tolist(),
        "rows": factor.rows,
        "penalty": factor.penalty,
        "ridge_tokens": settings.bridge.ridge_tokens,
    }
    context.store.write_json(SPLIT, facts)
    context.progress(1, 1, "factorisation")
    return {"train_windows": len(train), "validation_windows": len(validation), "rows": factor.rows}


def load_ridge(record: StageRecord, device: str | torch.device) -> SharedRidge:
    """Return what `build_ridge` stored, tensors on `device`.

    Raises
    ------
    ArtifactError
        If the store cannot be read.
    """
    folder = record.path
    try:
        facts = json.loads((folder / SPLIT).read_bytes())
        tensors = safetensors.torch.load_file(folder / TENSORS, device=str(device))
        condition = Standardiser(len(tensors["condition.mean_D"])).to(device)
        condition.mean_D.copy_(tensors["condition.mean_D"])
        condition.scale_D.copy_(tensors["condition.scale_D"])
        train, validation, fitted = (
            np.array(facts[name], dtype=np.int64) for name in ("train", "validation", "fitted")
        )
        factor = RidgeFactor(tensors["cholesky_FF"], tensors["centre_F"], facts["rows"], facts["penalty"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"ridge store {folder} is unreadable ({type(error).__name__}: {error}); "
            "run the study again, it recomputes stage 'ridge'"
        ) from error
    return SharedRidge(train, validation, fitted, condition, factor)
