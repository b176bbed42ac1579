# pyright: reportCallIssue=false
# Defaults are given to Field by position, which pyright does not count as defaults.
"""Every setting of a study, as frozen data with bounds and descriptions. Imports no torch.

A profile (`dihal_core/profiles/*.toml`) fills these models; `--set a.b=c` overrides single values;
the exact settings lie beside every result. Fields marked "ours" are values the paper
(arXiv 2605.14368) does not state; the others cite it.
"""

from typing import Literal

from pydantic import Field, model_validator

from dihal_core.config.ablation import AblationSettings
from dihal_core.config.base import Settings
from dihal_core.config.bridges import BridgeBase, BridgeSettings, MlpBridgeSettings, UnetBridgeSettings
from dihal_core.config.cost import CostSettings
from dihal_core.config.data import ActivationSettings, BackboneSettings, CorpusSettings, HuggingFaceSettings
from dihal_core.config.geometry import AgreementSettings, GeometrySettings, MetricSettings, ProxySettings, ScoreSettings
from dihal_core.config.targets import TargetSettings, choose_targets
from dihal_core.config.training import EvaluationSettings, ReplaceSettings, SweepSettings, TrainingSettings

__all__ = [
    "AblationSettings",
    "ActivationSettings",
    "AgreementSettings",
    "BackboneSettings",
    "BridgeBase",
    "BridgeSettings",
    "ComputeSettings",
    "CorpusSettings",
    "CostSettings",
    "EvaluationSettings",
    "GeometrySettings",
    "HuggingFaceSettings",
    "MetricSettings",
    "MlpBridgeSettings",
    "ProxySettings",
    "ReplaceSettings",
    "ReportSettings",
    "ScoreSettings",
    "Settings",
    "StudySettings",
    "SweepSettings",
    "TargetSettings",
    "TrainingSettings",
    "UnetBridgeSettings",
]


class ReportSettings(Settings):
    """How results are shown; changes no number."""

    title: str = Field("Where should diffusion enter this language model?", description="Heading of the report.")
    figure_dpi: int = Field(110, ge=40, le=400, description="Resolution of embedded figures.")


class ComputeSettings(Settings):
    """Where it runs."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one, else cpu.")
    corpus_workers: int = Field(2, ge=1, le=64, description="Shards read side by side; changes no number.")
    asset_workers: int = Field(3, ge=1, le=16, description="Wheels fetched side by side; changes no number.")
    geometry_workers: int = Field(2, ge=1, le=256, description="Layers measured side by side; changes no number.")
    subsample_workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Subsamples of one layer measured side by side on its one read and Gram matrix; changes no number. "
        "With geometry_workers x subsample_workers = cores, fewer layers and more subsamples take less memory.",
    )
    sweep_workers: int = Field(2, ge=1, le=256, description="Bridges trained side by side; changes no number.")
    dump_workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that dump disjoint units of one store, each with its own copy of the model (one per GPU "
        "where there are several); changes no number. On a cluster these are its workers, where the home is a folder; a "
        "dump into an object store is made by one.",
    )
    confirm_gigabytes: float = Field(
        0.0, ge=0, description="activations.store_everything may write this much; the refusal says the number."
    )
    remote_sync_seconds: float = Field(
        120.0,
        ge=1,
        le=86_400,
        description="With DIHAL_HOME on an object store: seconds between uploads of unfinished units, which is what "
        "losing the machine can cost; changes no number.",
    )
    archive_url: str | None = Field(
        None, description="Folder or fsspec URL (s3://...) that also receives a compressed copy of the hidden states."
    )
    archive_codec: Literal["zstd", "zstd-9", "blosc-lz4", "blosc-zstd", "gzip", "none"] = Field(
        "zstd", description="Lossless codec of that copy; tests/benchmarks/RESULTS.md compares them."
    )
    runner: Literal["threads", "dask", "ray"] = Field(
        "threads",
        description="What computes the task runs: threads of the flow's own process, or the workers of a Dask or Ray "
        "cluster; changes no number.",
    )
    runner_address: str | None = Field(
        None,
        min_length=1,
        description="Address of a running cluster; null: a local one that lives as long as the flow.",
    )
    runner_workers: int = Field(
        2,
        ge=1,
        le=1024,
        description="Worker processes of a local cluster; on a cluster with an address: units in flight.",
    )

    @model_validator(mode="after")
    def _address_has_a_cluster(self) -> "ComputeSettings":
        if self.runner_address is not None and self.runner == "threads":
            raise ValueError(
                f"compute.runner_address {self.runner_address!r} names a cluster but compute.runner is threads; set "
                "compute.runner=dask or compute.runner=ray, or leave the address out"
            )
        return self


class StudySettings(Settings):
    """All settings of one study: what `study.json` and every manifest carry."""

    profile: str
    description: str = ""
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Root of all named random streams.")
    backbone: BackboneSettings
    corpus: CorpusSettings
    activations: ActivationSettings
    geometry: GeometrySettings = GeometrySettings()
    metrics: MetricSettings = MetricSettings()
    score: ScoreSettings = ScoreSettings()
    bridge: BridgeSettings = MlpBridgeSettings()
    sweep_layers: str = Field(
        "all",
        pattern=r"^(all|none|top:[1-9][0-9]*)$",
        description="Which candidates train a bridge: all, the top k by the sealed score, or none (ours; for large "
        "backbones on a schedule).",
    )
    sweep: SweepSettings
    targets: TargetSettings = TargetSettings()
    agreement: AgreementSettings = AgreementSettings()
    replace: ReplaceSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    cost: CostSettings = CostSettings()
    ablation: AblationSettings = AblationSettings()
    report: ReportSettings = ReportSettings()
    compute: ComputeSettings = ComputeSettings()

    @property
    def candidate_layers(self) -> tuple[int, ...]:
        """Layers 1..L-1 unless narrowed: the same set for geometry, sweep and agreement."""
        last = self.score.last_layer or self.backbone.num_layers - 1
        return tuple(range(self.score.first_layer, last + 1))

    @property
    def table_layers(self) -> tuple[int, ...]:
        """Candidates plus 0 (embedding output) and L (raw last block): shown in tables, never z-scored."""
        return tuple(sorted({0, *self.candidate_layers, self.backbone.num_layers}))

    @model_validator(mode="after")
    def _consistent(self) -> "StudySettings":
        top = self.backbone.num_layers - 1
        last = self.score.last_layer or top
        if not 1 <= self.score.first_layer <= last <= top:
            raise ValueError(
                f"candidate layers {self.score.first_layer}..{last} are outside 1..{top} of {self.backbone.name}; "
                "choose block indices: 0 is the embedding output, "
                f"{self.backbone.num_layers} the last block, neither is a candidate"
            )
        if len(self.candidate_layers) < 2:
            raise ValueError(
                f"one candidate layer ({last}) has no z-score; widen score.first_layer..score.last_layer within 1..{top}"
            )
        if self.replace.layer is not None and self.replace.layer > top:
            raise ValueError(
                f"replace.layer {self.replace.layer} is outside 1..{top} of {self.backbone.name}; "
                "choose a block index, 0 is the embedding output"
            )
        if self.ablation.layer > top:
            raise ValueError(
                f"ablation.layer {self.ablation.layer} is outside 1..{top} of {self.backbone.name}; choose a block index"
            )
        for label, bridge in (("bridge", self.bridge), ("ablation.unet", self.ablation.unet)):
            if isinstance(bridge, UnetBridgeSettings) and bridge.vae == "random" and self.profile != "smoke":
                raise ValueError(
                    f"{label}.vae=random is a randomly initialised autoencoder: noise in the path, refused outside the "
                    "smoke profile; give a folder or hub id of trained weights"
                )
        available = self.corpus.num_sequences
        for label, wanted in (
            ("activations.num_sequences", self.activations.num_sequences),
            ("sweep.num_sequences", self.sweep.num_sequences),
            ("replace.num_sequences", self.replace.num_sequences),
            ("ablation.num_sequences", self.ablation.num_sequences or 0),
        ):
            if wanted > available:
                raise ValueError(f"{label} {wanted} exceeds corpus.num_sequences {available}; raise the latter")
        self._decide_targets()
        pool = self.activations.num_sequences * self.activations.positions_per_sequence
        if self.geometry.large_size > pool:
            raise ValueError(
                f"geometry.large_size {self.geometry.large_size} exceeds the pool of {pool} rows "
                "(activations.num_sequences x positions_per_sequence); enlarge the pool"
            )
        if self.geometry.small_count and self.geometry.small_size > pool:
            raise ValueError(
                f"geometry.small_size {self.geometry.small_size} exceeds the pool of {pool} rows; lower it or set "
                "geometry.small_count=0"
            )
        trained = self.sweep.num_sequences * (1 - self.sweep.validation_fraction)
        if trained < self.sweep.training.batch_sequences:
            raise ValueError(
                f"sweep.num_sequences {self.sweep.num_sequences} less validation_fraction "
                f"{self.sweep.validation_fraction} leaves {trained:.0f} training windows for batches of "
                f"{self.sweep.training.batch_sequences}; raise the former or lower sweep.training.batch_sequences"
            )
        if self.activations.skip_positions + self.activations.positions_per_sequence > self.corpus.min_window_tokens:
            raise ValueError(
                f"skip_positions {self.activations.skip_positions} + positions_per_sequence "
                f"{self.activations.positions_per_sequence} exceed corpus.min_window_tokens {self.corpus.min_window_tokens}"
            )
        return self

    def _decide_targets(self) -> None:
        """Put the number of windows that are stored whole where stages read it; a number given by hand stays."""
        acts, wanted, given = self.activations, self.sweep.num_sequences, self.activations.whole_sequences
        stored = choose_targets(self).windows if given is None else given
        if stored not in (0, wanted):
            raise ValueError(
                f"activations.whole_sequences {stored} must be 0 (recompute targets) or equal sweep.num_sequences {wanted}; "
                "leave it out and targets.source decides"
            )
        if stored > acts.num_sequences:
            said = "targets.source=stored needs" if given is None else f"activations.whole_sequences {stored} needs"
            raise ValueError(
                f"{said} the sweep's {wanted} windows in the dump, which exceeds activations.num_sequences "
                f"{acts.num_sequences}; raise the latter, or set targets.source=recomputed"
            )
        if given is None:
            decided = acts.model_copy(update={"whole_sequences": stored})
            object.__setattr__(self, "activations", decided)  # frozen for everyone else
