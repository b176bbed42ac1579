"""Published parts of a bridge in keys: pinned to a commit, known by their content, absent where there are none."""

import subprocess
import sys

import huggingface_hub.constants
import pytest

from dihal_core.bridges.latents import load_vae
from dihal_core.bridges.origins import bridge_values, built_bridge, origins
from dihal_core.config import UnetBridgeSettings
from dihal_core.errors import AssetError, ConfigError
from dihal_core.profiles import load_study
from dihal_core.provenance import package_version
from dihal_core.requests import make_request
from dihal_core.study import pin_settings, request_for, study_name

COMMIT, OTHER = "c" * 40, "d" * 40
UNET = {
    "bridge.kind": "unet", "bridge.latent_channels": 2, "bridge.latent_side": 4, "bridge.block_channels": [8],
    "bridge.norm_groups": 4, "bridge.attention_heads": 2,
}  # fmt: skip
STAGES_WITH_BRIDGES = ("gates", "sweep", "replace", "evaluate", "cost", "hybrid")


def published(folder, content=b"weights"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(content)
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An offline cache of the hub with one downloaded VAE: `refs/main` names its commit."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "cache" / "models--team--vae"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    load_vae("random", None, 2).save_pretrained(model / "snapshots" / COMMIT, safe_serialization=True)
    return model


def keys(settings, home, stages=STAGES_WITH_BRIDGES):
    return {
        stage: make_request(stage, settings, {}, home, None, bridge_values(stage, settings, None, home)).key
        for stage in stages
    }


def test_a_replaced_vae_is_another_key_in_every_stage_that_runs_the_bridge(tmp_path):
    vae = published(tmp_path / "pipeline" / "vae")
    settings = load_study("smoke", overrides={**UNET, "bridge.vae": str(tmp_path / "pipeline")})
    first = keys(settings, tmp_path / "runs")
    (vae / "notes.txt").write_text("no part of the model")
    assert keys(settings, tmp_path / "runs") == first
    published(vae, b"weightz!")
    second = keys(settings, tmp_path / "runs")
    (vae / "config.json").write_text('{"scaling_factor": 2}')
    third = keys(settings, tmp_path / "runs")
    assert all(len({first[stage], second[stage], third[stage]}) == 3 for stage in STAGES_WITH_BRIDGES)


def test_the_studys_own_requests_carry_the_identity_of_the_parts(tmp_path):
    settings = load_study("smoke", overrides={**UNET, "bridge.unet": str(published(tmp_path / "unet"))})
    request = request_for("gates", settings, tmp_path / "runs", {"assets": {}, "corpus": {}})
    files = request.document["values"]["bridge_identity"]["unet"]["files"]
    assert sorted(files) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_stores_of_the_fast_bridge_depend_on_neither_diffusers_nor_accelerate(tmp_path):
    plain = load_study("smoke")
    for stage in (*STAGES_WITH_BRIDGES, "ablate"):
        document = make_request(stage, plain, {}, tmp_path).document
        assert not {"diffusers", "accelerate"} & set(document["libraries"])
        assert bridge_values(stage, plain, None, tmp_path) == {}


def test_stores_of_a_unet_depend_on_diffusers_and_others_do_not(tmp_path):
    unet = load_study("smoke", overrides=UNET)
    for stage in STAGES_WITH_BRIDGES:
        assert make_request(stage, unet, {}, tmp_path).document["libraries"]["diffusers"] == package_version(
            "diffusers"
        )
    for stage in ("corpus", "activations", "ridge", "score"):
        assert "diffusers" not in make_request(stage, unet, {}, tmp_path).document["libraries"]
    plain = load_study("smoke")
    found = {
        unit: "diffusers" in make_request("ablate", plain, {}, tmp_path, unit).document["libraries"]
        for unit in ("mlp-s0", "regressor-s1", "ridge-3-s0", "unet-s0")
    }
    assert found == {"mlp-s0": False, "regressor-s1": False, "ridge-3-s0": False, "unet-s0": True}


def test_accelerate_counts_where_it_spreads_the_backbone_or_joins_processes(tmp_path):
    spread = load_study("smoke", overrides={"backbone.device_map": "auto"})
    joined = load_study("smoke", overrides={"replace.training.processes": 2})
    assert "accelerate" in make_request("evaluate", spread, {}, tmp_path).document["libraries"]
    assert "accelerate" not in make_request("geometry", spread, {}, tmp_path).document["libraries"]
    assert "accelerate" in make_request("replace", joined, {}, tmp_path).document["libraries"]
    assert "accelerate" not in make_request("sweep", joined, {}, tmp_path).document["libraries"]


def test_a_downloaded_part_is_pinned_to_its_commit_without_network_and_loads(hub_cache, tmp_path):
    overrides = {**UNET, "bridge.vae": "team/vae"}
    settings = load_study("quickstart", overrides=overrides)
    for ask_hub in (False, True):
        pinned = pin_settings(settings, ask_hub)
        assert pinned.bridge.vae_revision == COMMIT
        assert pinned.bridge.unet_revision is None
    assert bridge_values("sweep", pinned, 1, tmp_path)["bridge_identity"] == {
        "vae": {"source": "hub", "id": "team/vae", "revision": COMMIT}
    }
    assert study_name(pinned) == study_name(settings)
    assert load_vae("team/vae", COMMIT, 2).config["latent_channels"] == 2  # the repository is the part itself
    (hub_cache / "refs" / "main").write_text(OTHER)
    (hub_cache / "snapshots" / COMMIT).rename(hub_cache / "snapshots" / OTHER)
    moved = pin_settings(settings, ask_hub=True)
    assert moved.bridge.vae_revision == OTHER
    assert keys(moved, tmp_path) != keys(pinned, tmp_path)


def test_a_part_of_a_pipeline_and_one_of_the_comparison_are_pinned_too(hub_cache):
    snapshot = hub_cache / "snapshots" / COMMIT
    (snapshot / "unet").mkdir()
    (snapshot / "unet" / "config.json").write_text("{}")
    pinned = pin_settings(load_study("smoke", overrides={"ablation.unet.unet": "team/vae"}), ask_hub=True)
    assert pinned.ablation.unet.unet_revision == COMMIT
    assert "unet_revision" not in pinned.bridge.model_dump()
    assert built_bridge("ablate", pinned, "unet-s0").unet_revision == COMMIT


def test_a_part_that_neither_cache_nor_hub_knows_is_a_sentence_once_it_is_needed(hub_cache):
    settings = load_study("smoke", overrides={**UNET, "bridge.vae": "team/unknown"})
    assert pin_settings(settings, ask_hub=False).bridge.vae_revision is None
    with pytest.raises(ConfigError, match=r"hub model 'team/unknown' at 'main' .*give bridge\.vae a local folder"):
        pin_settings(settings, ask_hub=True)


def test_a_flow_that_builds_no_bridge_asks_for_none_of_its_parts(hub_cache):
    settings = load_study("smoke", overrides={**UNET, "bridge.vae": "team/unknown"})
    assert pin_settings(settings, True, "locate").bridge.vae_revision is None
    with pytest.raises(ConfigError, match="team/unknown"):
        pin_settings(settings, True, "sweep")


def test_what_loads_a_trained_bridge_does_not_need_the_folder_its_unet_came_from(tmp_path):
    settings = load_study("smoke", overrides={**UNET, "bridge.unet": str(published(tmp_path / "unet"))})
    assert "unet" in bridge_values("replace", settings, None, tmp_path)["bridge_identity"]
    for stage in ("evaluate", "cost", "hybrid"):
        assert bridge_values(stage, settings, None, tmp_path) == {}


def test_what_is_named_by_a_commit_or_a_folder_asks_nobody(hub_cache, tmp_path):
    fixed = load_study("smoke", overrides={**UNET, "bridge.vae": "team/unknown", "bridge.vae_revision": OTHER})
    assert pin_settings(fixed, ask_hub=True).bridge.vae_revision == OTHER
    local = load_study("smoke", overrides={**UNET, "bridge.unet": str(published(tmp_path / "unet"))})
    assert pin_settings(local, ask_hub=True).bridge == local.bridge


def test_a_folder_without_weights_is_an_asset_error(tmp_path):
    settings = load_study("smoke", overrides={**UNET, "bridge.vae": str(tmp_path / "nowhere")})
    with pytest.raises(AssetError, match=r"the vae of the bridge is to come from '.*nowhere', where there is no"):
        bridge_values("sweep", settings, 1, tmp_path)


def test_random_weights_have_no_origin():
    assert origins(UnetBridgeSettings(vae="random", latent_side=4)) == ()


@pytest.mark.parametrize("name", ["bridge", "ablation.unet"])
def test_a_random_vae_is_refused_outside_the_smoke_profile_wherever_a_bridge_is_named(name):
    overrides = {**({"bridge.kind": "unet"} if name == "bridge" else {}), f"{name}.latent_side": 4}
    with pytest.raises(ConfigError, match=rf"{name}\.vae=random .* refused outside the smoke profile"):
        load_study("quickstart", overrides={**overrides, f"{name}.vae": "random"})


def test_identity_and_libraries_import_no_torch():
    code = "import sys, dihal_core.libraries, dihal_core.bridges.origins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
