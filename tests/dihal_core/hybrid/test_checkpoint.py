"""Saved hybrids: the same logits bit for bit in a fresh process, and a sentence for everything that is wrong."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from dihal_core.bridges.latents import load_vae
from dihal_core.bridges.registry import BRIDGES
from dihal_core.bridges.unet import make_unet
from dihal_core.errors import ArtifactError, AssetError, ConfigError, DihalError
from dihal_core.hybrid.causal_lm import DiHALForCausalLM
from dihal_core.hybrid.checkpoint import load_hybrid

FRESH = """
import sys, dihal_core
assert "torch" not in sys.modules and "transformers" not in sys.modules
import safetensors.torch, torch
from transformers import AutoConfig, AutoModelForCausalLM
torch.set_num_threads(1)
for place in sys.argv[1:]:
    if place.endswith(".safetensors"):
        given = safetensors.torch.load_file(place)
        continue
    model = AutoModelForCausalLM.from_pretrained(place)
    assert type(model).__name__ == "DiHALForCausalLM", type(model)
    assert AutoConfig.from_pretrained(place).layer == model.config.layer == 2
    assert torch.equal(model(given["tokens"], sampling_steps=2).logits, given["logits"])
    text = model.generate(given["tokens"], max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert torch.equal(text, given["text"])
    print("same")
"""


@pytest.fixture
def saved(tmp_path, make_hybrid):
    """A saved tiny hybrid and the model it was saved from."""
    model = make_hybrid("llama")
    model.save_pretrained(tmp_path / "hybrid")
    return tmp_path / "hybrid", model


def test_a_fresh_process_gives_the_same_logits_bit_for_bit_by_reference_and_merged(
    tmp_path, make_hybrid, small_unet, prompts
):
    tokens_BT = torch.stack(prompts((9, 9)))
    words = []
    for model_type in ("llama", "gpt2"):
        model = make_hybrid(model_type, dtype="bfloat16")
        model.save_pretrained(tmp_path / model_type / "reference")
        model.save_pretrained(tmp_path / model_type / "merged", merged=True)
        given = {
            "tokens": tokens_BT,
            "logits": model(tokens_BT, sampling_steps=2).logits,
            "text": model.generate(tokens_BT, max_new_tokens=6, do_sample=False, eos_token_id=None),
        }
        safetensors.torch.save_file(given, tmp_path / model_type / "given.safetensors")
        words += [str(tmp_path / model_type / name) for name in ("given.safetensors", "reference", "merged")]
    words += _published(tmp_path, make_hybrid, small_unet, tokens_BT)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *words], capture_output=True, text=True, env=_environment(), timeout=300
    )
    assert done.stdout.split() == ["same"] * 5, done.stderr[-2000:]


def _published(tmp_path, make_hybrid, small_unet, tokens_BT) -> list[str]:
    """A merged copy of a hybrid whose UNet and VAE came from folders that are gone, and what it gave."""
    model, sources = _with_sources(tmp_path / "sd", make_hybrid, small_unet)
    model.save_pretrained(tmp_path / "reference")
    load_hybrid(tmp_path / "reference").save_pretrained(tmp_path / "merged", merged=True)
    given = {
        "tokens": tokens_BT,
        "logits": model(tokens_BT, sampling_steps=2).logits,
        "text": model.generate(tokens_BT, max_new_tokens=6, do_sample=False, eos_token_id=None),
    }
    safetensors.torch.save_file(given, tmp_path / "published.safetensors")
    shutil.rmtree(sources)
    shutil.move(tmp_path / "merged", tmp_path / "moved")
    return [str(tmp_path / "published.safetensors"), str(tmp_path / "moved")]


def _with_sources(sources, make_hybrid, small):
    """A hybrid whose bridge takes UNet and VAE from the folder `sources`."""
    make_unet(small.model_copy(update={"layers_per_block": 2}), 2, 2).save_pretrained(
        sources / "unet", safe_serialization=True
    )
    load_vae("random", None, 2).save_pretrained(sources / "vae", safe_serialization=True)
    bridge = small.model_copy(update={"unet": str(sources), "vae": str(sources)})
    return make_hybrid("llama", bridge=bridge), sources


def test_a_reference_finds_its_vae_by_its_source_and_refuses_another_one(tmp_path, make_hybrid, small_unet, prompts):
    model, sources = _with_sources(tmp_path / "sd", make_hybrid, small_unet)
    model.save_pretrained(tmp_path / "hybrid")
    assert not (tmp_path / "hybrid" / "vae").exists()
    shutil.rmtree(sources / "unet")  # its weights are the bridge's own
    tokens_BT = torch.stack(prompts((9,)))
    assert torch.equal(load_hybrid(tmp_path / "hybrid")(tokens_BT).logits, model(tokens_BT).logits)
    path = sources / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value + 0.01 for name, value in tensors.items()}, path, {"format": "pt"})
    with pytest.raises(AssetError, match="the VAE in .* has weights with digest .* the bridge was trained with"):
        load_hybrid(tmp_path / "hybrid")
    shutil.rmtree(sources)
    with pytest.raises(AssetError, match="vae weights .* could not be loaded"):
        load_hybrid(tmp_path / "hybrid")


def test_a_merged_copy_names_no_folder_it_was_made_in_among_its_models(tmp_path, make_hybrid, small_unet):
    model, sources = _with_sources(tmp_path / "sd", make_hybrid, small_unet)
    model.save_pretrained(tmp_path / "merged", merged=True)
    assert str(sources) not in (tmp_path / "merged" / "vae" / "config.json").read_text()
    _edit(tmp_path / "merged", bridge_structure={"unet": "none"})
    with pytest.raises(ArtifactError, match="has a bridge_structure that describes no UNet"):
        load_hybrid(tmp_path / "merged")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("kind", sorted(BRIDGES))
def test_every_family_and_bridge_survives_saving(family, kind, tmp_path, make_hybrid, prompts):
    tokens_BT = torch.stack(prompts((9, 9)))
    model = make_hybrid(family, kind=kind)
    expected = model(tokens_BT).logits
    for merged in (False, True):
        model.save_pretrained(tmp_path / str(merged), merged=merged)
        again = DiHALForCausalLM.from_pretrained(tmp_path / str(merged))
        assert torch.equal(again(tokens_BT).logits, expected)
        assert again.config.backbone_sha256 == model.config.backbone_sha256
        assert again.generation_config.eos_token_id == [3]


@pytest.mark.parametrize("arm", ["regressor", "ridge", "table", "skip"])
def test_controls_are_hybrids_too(arm, tmp_path, make_hybrid, prompts):
    tokens_BT = torch.stack(prompts((9,)))
    model = make_hybrid("llama", arm)
    model.save_pretrained(tmp_path)
    again = load_hybrid(tmp_path)
    assert again.config.arm == arm
    assert torch.equal(again(tokens_BT).logits, model(tokens_BT).logits)


def test_nothing_is_pickled_and_a_reference_holds_the_bridge_alone(saved):
    folder, model = saved
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    assert set(tensors) == set(model.arm.state_dict())
    assert (folder / "model.safetensors").stat().st_size < 200_000
    reference = json.loads((folder / "config.json").read_bytes())["backbone_reference"]
    assert reference["source"] == "random"


def test_a_copy_of_a_merged_copy_is_merged_and_moves(saved, tmp_path, prompts):
    folder, model = saved
    model.save_pretrained(tmp_path / "merged", merged=True)
    load_hybrid(tmp_path / "merged").save_pretrained(tmp_path / "second")
    shutil.rmtree(tmp_path / "merged")
    shutil.move(tmp_path / "second", tmp_path / "moved")
    tokens_BT = torch.stack(prompts((9,)))
    assert torch.equal(load_hybrid(tmp_path / "moved")(tokens_BT).logits, model(tokens_BT).logits)
    assert folder.is_dir()


def test_another_backbone_is_refused_by_its_digest(saved):
    folder, _ = saved
    _edit(folder, backbone_seed=4)
    with pytest.raises(ArtifactError, match=r"digest .* this hybrid was trained on .* its bridge would feed another"):
        load_hybrid(folder)


def test_a_changed_weight_in_a_merged_copy_is_refused(saved, tmp_path):
    saved[1].save_pretrained(tmp_path / "merged", merged=True)
    path = tmp_path / "merged" / "backbone" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["model.norm.weight"][0] += 1
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ArtifactError, match="this hybrid was trained on"):
        load_hybrid(tmp_path / "merged")


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _flip(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), ArtifactError, "model.safetensors cannot be used"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), ArtifactError, "its digest is"),
        (_flip, ArtifactError, "its digest is .* config.json names"),
        (lambda folder: (folder / "config.json").unlink(), ArtifactError, "config.json is missing or unreadable"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            ArtifactError,
            "config.json is missing or unreadable",
        ),
        (lambda folder: _edit(folder, layer=7), ConfigError, "layer 7 is outside 1..6 of tiny llama"),
        (lambda folder: _edit(folder, layer=0), ConfigError, "layer 0 is outside 1..6"),
        (lambda folder: _edit(folder, arm="brigde"), ConfigError, "unknown arm 'brigde'.*did you mean 'bridge'"),
        (lambda folder: _edit(folder, bridge_settings={"kind": "mlp", "width": 1}), ArtifactError, "width = 1"),
        (
            lambda folder: _edit(folder, sampling_steps="many"),
            ArtifactError,
            r"sampling_steps = 'many', not .* 1..1000",
        ),
        (lambda folder: _edit(folder, separator_token_id=97), ArtifactError, r"separator_token_id = 97, not .* 0..96"),
        (lambda folder: _edit(folder, backbone_reference=None), ArtifactError, "does not describe a hybrid"),
        (
            lambda folder: _edit(folder, bridge_settings={"kind": "mlp", "width": 32, "context_width": 16}),
            ArtifactError,
            "model.safetensors cannot be used",
        ),
        (lambda folder: shutil.rmtree(folder), AssetError, "there is no folder"),
    ],
)
def test_a_damaged_folder_is_a_sentence(damage, error, message, saved):
    folder, _ = saved
    damage(folder)
    with pytest.raises(error, match=message) as found:
        load_hybrid(folder)
    assert isinstance(found.value, DihalError)
    assert len(str(found.value)) < 700


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_config": {}}, "does not know quantization_config"),
        ({"hmoe": "/tmp"}, r"did you mean 'home'\?"),
        ({"dtype": "float13"}, "dtype 'float13' is not known"),
        ({"device_map": {"blocks": 0, "arm": 1}}, "spreads a hybrid over devices"),
    ],
)
def test_options_without_effect_are_refused(options, message, saved):
    with pytest.raises(ConfigError, match=message):
        load_hybrid(saved[0], **options)


def test_the_backbone_is_cast_on_request_after_its_digest_was_checked(saved, prompts):
    folder, model = saved
    half = load_hybrid(folder, dtype=torch.bfloat16, device_map="cpu")
    tokens_BT = torch.stack(prompts((9,)))
    assert half(tokens_BT).logits.dtype == torch.bfloat16
    assert half.arm.frame.sink_D.dtype == torch.float32
    assert (half(tokens_BT).logits.float() - model(tokens_BT).logits).abs().max() < 1


def test_saving_refuses_options_it_would_ignore(saved, tmp_path):
    with pytest.raises(ConfigError, match="does not know variant='fp16'"):
        saved[1].save_pretrained(tmp_path, variant="fp16")
