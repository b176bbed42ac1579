"""Both paper profiles end to end through the same flow: real model classes shrunk, a local Dolma mirror."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dihal_core.bridges.latents import load_vae
from dihal_core.corpus.shards import FOLDERS
from dihal_core.seeding import stream
from flows.study import full_study

pytestmark = pytest.mark.usefixtures("prefect_server")

WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo") for b in range(200)]

SHRUNK = {
    "backbone.source": "random",
    "backbone.identifier": "shrunk",
    "backbone.num_layers": 5,
    "backbone.hidden_size": 32,
    "backbone.vocab_size": 258,
    "backbone.tokenizer": "bytes",
    "backbone.separator_token": "<|separator|>",
    "backbone.dtype": "float32",
    "backbone.config_overrides.intermediate_size": 64,
    "backbone.config_overrides.num_attention_heads": 4,
    "backbone.config_overrides.num_key_value_heads": 2,
    "backbone.config_overrides.head_dim": 8,
    "targets.source": "recomputed",  # as auto chooses at the size the profile is for
    "corpus.num_sequences": 64,
    "corpus.num_heldout": 8,
    "corpus.num_eval_wiki": 6,
    "corpus.window_tokens": 48,
    "corpus.min_window_tokens": 24,
    "corpus.heldout_permille": 150,
    "corpus.shards_per_source": 1,
    "activations.num_sequences": 64,
    "activations.batch_sequences": 8,
    "activations.threads": 1,
    "geometry.large_count": 3,
    "geometry.large_size": 48,
    "geometry.small_count": 2,
    "geometry.small_size": 24,
    "geometry.num_pairs": 100,
    "geometry.bootstrap_replicates": 20,
    "bridge.width": 16,
    "bridge.blocks": 1,
    "bridge.context_width": 16,
    "bridge.context_blocks": 1,
    "bridge.context_heads": 2,
    "bridge.unet": None,
    "bridge.latent_side": 4,
    "bridge.block_channels": [8, 16],
    "bridge.layers_per_block": 1,
    "bridge.attention_heads": 2,
    "bridge.norm_groups": 4,
    "bridge.cross_attention_width": 16,
    "bridge.context_tokens": 4,
    "sweep.num_sequences": 32,
    "sweep.likelihood_sequences": 2,
    "sweep.regressor_layers": 1,
    "sweep.training.batch_sequences": 8,
    "sweep.training.warmup_steps": 1,
    "replace.num_sequences": 64,
    "replace.threads": 1,
    "replace.training.batch_sequences": 16,
    "replace.training.warmup_steps": 1,
    "evaluation.batch_sequences": 4,
    "evaluation.bootstrap_replicates": 20,
    "evaluation.threads": 1,
    "agreement.bootstrap_replicates": 50,
    "agreement.permutations": 50,
}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """One small shard of every folder of Dolma v1.7 under its true name."""
    root = tmp_path_factory.mktemp("dolma")
    for folder in FOLDERS.values():
        path = folder.shards()[0]
        draws = stream(0, "mirror", path)
        rows = (
            {
                "id": f"{path}-{number}",
                "text": " ".join(draws.choice(WORDS, int(draws.integers(20, 90)))),
                "source": folder.name,
                "metadata": {folder.name: number},
            }
            for number in range(12)
        )
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
    return root


@pytest.fixture(scope="module")
def wikitext(tmp_path_factory) -> Path:
    """Eight articles in the form of WikiText-103's parquet files."""
    folder = tmp_path_factory.mktemp("wikitext")
    draws = stream(0, "wikitext")
    rows = []
    for number in range(8):
        rows += ["", f" = Article {number} = \n", "", f" {' '.join(draws.choice(WORDS, 40))} . \n"]
    pq.write_table(pa.table({"text": rows}), folder / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    """A tiny AutoencoderKL as diffusers saves one."""
    folder = tmp_path_factory.mktemp("vae")
    load_vae("random", None, 4).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    ("profile", "reference"),
    [
        ("paper-llama-3.1-8b", "Llama-3.1-8B-Instruct</td><td>3</td><td>32</td>"),
        ("paper-qwen3-8b", "Qwen3-8B</td><td>2</td><td>36</td>"),
    ],
)
def test_a_shrunk_paper_profile_runs_end_to_end(profile, reference, mirror, wikitext, autoencoder, home):
    local = {"corpus.base_url": str(mirror), "corpus.evaluation_url": str(wikitext), "bridge.vae": str(autoencoder)}
    result = full_study(profile=profile, overrides={**SHRUNK, **local})
    study = json.loads((Path(result["folder"]) / "study.json").read_bytes())
    assert result["failed_layers"] == {}
    assert study["results"]["score"]["candidate_layers"] == [1, 2, 3, 4]
    assert study["results"]["agreement"]["missing_layers"] == []
    assert reference in (Path(result["folder"]) / "report.html").read_text(encoding="utf-8")
    assert set(study["results"]["evaluate"]) == {"eval_wiki", "heldout"}
    replace = study["results"]["replace"]
    assert replace["layer"] == study["results"]["score"]["selected_layer"]
    # four epochs of the final training against one of the sweep, on twice the sequences
    assert replace["arms"]["bridge"]["steps"] >= 4 * 3
    assert all(weight > 0 for weight in replace["objective"]["bridge"].values())  # all four losses
    # eight positions of a window of up to 47 enter the UNet's loss
    assert replace["arms"]["bridge"]["tokens"] < replace["arms"]["regressor"]["tokens"]
