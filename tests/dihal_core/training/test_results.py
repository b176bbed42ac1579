"""What a layer trained is kept while a model it needs is away."""

import pytest

from dihal_core.bridges.latents import load_vae
from dihal_core.errors import AssetError
from dihal_core.profiles import load_study
from dihal_core.requests import find
from dihal_core.runner import ensure
from dihal_core.store import StageStore
from dihal_core.training.results import fresh_arms, keep_trained

UNET = {
    "bridge.kind": "unet", "bridge.latent_channels": 2, "bridge.latent_side": 4, "bridge.block_channels": [8],
    "bridge.norm_groups": 4, "bridge.attention_heads": 2, "bridge.cross_attention_width": 8,
    "bridge.layers_per_block": 1, "replace.regressor": False,
}  # fmt: skip


def test_an_absent_vae_costs_no_finished_training(request_in, source, tmp_path):
    vae = tmp_path / "vae"
    load_vae("random", None, 2).save_pretrained(vae, safe_serialization=True)
    settings = load_study("smoke", overrides={**UNET, "bridge.vae": str(vae)})
    request = request_in("replace", settings, values={"layer": 2})
    store = StageStore(tmp_path / "home", "replace", request.key)
    arms = fresh_arms(("bridge", "ridge", "skip"), settings.bridge, source.frame, settings.seed)
    keep_trained(store, arms, {}, settings.bridge, 2)
    before = {path: path.read_bytes() for path in (store.path / "arms").iterdir()}
    vae.rename(tmp_path / "away")
    with pytest.raises(AssetError, match="vae weights .* could not be loaded"):
        ensure(request)
    assert find(request).state == "partial"
    assert {path: path.read_bytes() for path in (store.path / "arms").iterdir()} == before
    (tmp_path / "away").rename(vae)
    record = ensure(request)
    assert (record.path / "arms" / "bridge.safetensors").read_bytes() == before[store.path / "arms/bridge.safetensors"]
