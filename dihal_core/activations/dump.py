"""Stage `activations`: one forward pass over the training windows, all layers to disk.

Every batch has the same shape, because bfloat16 states depend on it; a unit of batches is committed
when its chunks are on disk, and a resumed run redoes whole units, bit for bit.
Letters: N windows, T positions, M pool rows.
"""

from typing import Any, cast

import numpy as np

from dihal_core.activations.names import GROUP
from dihal_core.activations.plan import DumpPlan, candidate_layers, plan_bytes, sample_rows, table_layers
from dihal_core.activations.run import dump_states
from dihal_core.activations.verify import verify
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.corpus.windows import Windows, load_windows
from dihal_core.errors import ConfigError
from dihal_core.stages import StageContext
from dihal_core.store import StageStore, require_disk


def build_activations(context: StageContext) -> dict[str, Any]:
    """Dump hidden states and write `activations.json`; resumes from committed units.

    Raises
    ------
    ResourceError
        If the disk is too small, before anything is computed.
    NumericsError
        If a state is not finite, or recomputed states differ from the stored ones.
    """
    settings, inputs = context.settings, cast(Any, context.inputs)
    backbone_settings, chosen = settings.backbone, settings.activations
    windows = load_windows(inputs["corpus"], "train")
    candidates = candidate_layers(settings.score.first_layer, settings.score.last_layer, backbone_settings.num_layers)
    plan = make_plan(
        windows, chosen, candidates, backbone_settings.num_layers, backbone_settings.hidden_size, settings.seed
    )
    require_disk(context.store.path, _missing_bytes(plan, context.store), "the dump of hidden states")
    use_threads(chosen.threads)
    backbone = load_backbone(
        backbone_settings, inputs["assets"], resolve_device(settings.compute.device), settings.seed
    )
    facts = {
        "name": backbone_settings.name,
        "model_type": backbone_settings.model_type,
        "dtype": backbone_settings.dtype,
    }
    rate = dump_states(backbone, plan, context.store, facts, context.progress)
    verified = verify(backbone, plan, context.store.path / GROUP, settings.seed)
    sections = plan_bytes(plan)
    context.store.write_json(
        "activations.json",
        {
            "layers": list(plan.table_layers),
            "candidate_layers": list(plan.candidate_layers),
            "sequences": plan.windows,
            "tokens": int(plan.lengths_N.sum()),
            "documents": len(np.unique(plan.document_N)),
            "pool_rows": len(plan.rows_M3),
            "whole_sequences": plan.whole_sequences,
            "bytes": sum(sections.values()),
            "bytes_by_section": sections,
            "dtype": "bfloat16",
            "batch_shape": [plan.batch_sequences, plan.positions],
            **verified,
        },
    )
    return {
        "sequences": plan.windows,
        "pool_rows": len(plan.rows_M3),
        "bytes": sum(sections.values()),
        "tokens_per_second": rate,
        **verified,
    }


def make_plan(
    windows: Windows, chosen: Any, candidates: tuple[int, ...], num_layers: int, hidden_size: int, seed: int
) -> DumpPlan:
    """Return the plan of the first `chosen.num_sequences` training windows (`chosen`: ActivationSettings).

    Raises
    ------
    ConfigError
        If the corpus has fewer windows than asked.
    """
    count = chosen.num_sequences
    if count > len(windows.lengths_N):
        raise ConfigError(
            f"activations.num_sequences {count} exceeds the {len(windows.lengths_N)} training windows the corpus gave; "
            "lower it, or widen the corpus"
        )
    tokens_NT = np.asarray(windows.tokens_NT[:count])
    lengths_N, document_N = np.asarray(windows.lengths_N[:count]), np.asarray(windows.document_N[:count])
    return DumpPlan(
        tokens_NT=tokens_NT,
        lengths_N=lengths_N,
        document_N=document_N,
        separator_id=windows.separator_id,
        rows_M3=sample_rows(
            tokens_NT,
            lengths_N,
            document_N,
            chosen.positions_per_sequence,
            chosen.skip_positions,
            seed,
            chosen.token_policy,
        ),
        table_layers=table_layers(candidates, num_layers),
        candidate_layers=candidates,
        whole_sequences=chosen.whole_sequences,
        positions_per_sequence=chosen.positions_per_sequence,
        batch_sequences=chosen.batch_sequences,
        unit_batches=chosen.unit_batches,
        hidden_size=hidden_size,
        token_policy=chosen.token_policy,
        skip_positions=chosen.skip_positions,
    )


def _missing_bytes(plan: DumpPlan, store: StageStore) -> int:
    present = sum(int(payload.get("bytes", 0)) for payload in store.committed().values())
    return max(0, sum(plan_bytes(plan).values()) - present)
