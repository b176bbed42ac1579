"""Stage `activations`: one forward pass over the training windows, all layers to disk.

Every batch has the same shape, because bfloat16 states depend on it; a unit of batches is committed
when its chunks are on disk, and a resumed run redoes whole units, bit for bit (`run` says what is and
is not invariant). With `compute.dump_workers` several processes make disjoint units of the one store.
Letters: N windows, T positions, M pool rows.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from dihal_core.activations.amount import describe_amount, require_confirmed
from dihal_core.activations.archive import archive_group, archive_place, check_place, is_complete
from dihal_core.activations.gate import DumpGate
from dihal_core.activations.names import GROUP, SINKS
from dihal_core.activations.plan import DumpPlan, candidate_layers, plan_bytes, sample_rows, table_layers
from dihal_core.activations.run import dump_states
from dihal_core.activations.sinks import count_sinks
from dihal_core.activations.verify import verify
from dihal_core.activations.workers import Work, helpers
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.contract import StageContext
from dihal_core.corpus.windows import Windows, load_windows
from dihal_core.errors import ConfigError
from dihal_core.files import require_disk
from dihal_core.store import StageRecord, StageStore

log = logging.getLogger(__name__)


def build_activations(context: StageContext) -> dict[str, Any]:
    """Dump hidden states and write `activations.json`; resumes from committed units.

    Raises
    ------
    ConfigError
        If everything is to be stored and the bytes were not confirmed.
    ResourceError
        If the disk is too small, before anything is computed.
    NumericsError
        If a state is not finite, or recomputed states differ from the stored ones.
    """
    settings, inputs, store = context.settings, cast(Any, context.inputs), context.store
    backbone_settings, chosen, compute = settings.backbone, settings.activations, settings.compute
    candidates = candidate_layers(settings.score.first_layer, settings.score.last_layer, backbone_settings.num_layers)
    work = make_work(settings, inputs["corpus"], inputs["assets"], store.home, store.key)
    plan, facts = work.plan, work.facts
    sections = plan_bytes(plan)
    if chosen.store_everything:
        asked = {name: sections[name] for name in ("geom", "full")}
        require_confirmed(asked, len(plan.whole_layers), plan.windows, compute.confirm_gigabytes)
    if compute.archive_url is not None:
        check_place(compute.archive_url, compute.archive_codec)
    missing = _missing_bytes(plan, store)
    require_disk(store.path, missing, "the dump of hidden states")
    log.info("hidden states of %s: %s; %d bytes to write", backbone_settings.name, describe_amount(sections), missing)
    device = resolve_device(compute.device)
    own = compute.dump_workers - 1 if compute.runner == "threads" else 0  # else tasks on other workers help
    with DumpGate(store.home, store.key).open(), helpers(work, own, device):
        use_threads(chosen.threads)
        backbone = load_backbone(backbone_settings, inputs["assets"], device, settings.seed)
        rate = dump_states(backbone, plan, store, facts, context.progress)
    verified = verify(backbone, plan, store.path / GROUP, settings.seed)
    store.write_json(SINKS, count_sinks(backbone, plan))
    if compute.archive_url is not None:
        place = archive_place(compute.archive_url, store.key)
        if is_complete(place):  # the key names the content: an earlier attempt came this far
            log.info("archive: %s is complete already and left alone", place)
        else:
            log.info("archive: %s", archive_group(store.path / GROUP, place, compute.archive_codec).sentence())
    store.write_json(
        "activations.json",
        {
            "layers": list(plan.table_layers),
            "candidate_layers": list(candidates),
            "whole_layers": list(plan.whole_layers) if plan.whole_sequences else [],
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


def make_work(settings: Any, corpus: StageRecord, assets: Mapping[str, StageRecord], home: Path, key: str) -> Work:
    """Return what every process that takes part in the dump needs: the same for all of them.

    Raises
    ------
    ConfigError
        If the corpus has fewer windows than asked.
    """
    backbone, chosen = settings.backbone, settings.activations
    candidates = candidate_layers(settings.score.first_layer, settings.score.last_layer, backbone.num_layers)
    windows = load_windows(corpus, "train")
    plan = make_plan(windows, chosen, candidates, backbone.num_layers, backbone.hidden_size, settings.seed)
    facts = {"name": backbone.name, "model_type": backbone.model_type, "dtype": backbone.dtype}
    return Work(backbone, assets, settings.seed, chosen.threads, plan, home, key, facts)


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
    layers = table_layers(candidates, num_layers)
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
        table_layers=layers,
        whole_layers=layers if chosen.store_everything else candidates,
        whole_sequences=count if chosen.store_everything else chosen.whole_sequences,
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
