"""Loading checks what it got, refuses pickles, and repeats itself."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from dihal_core.backbones.loading import forget_backbones, load_backbone
from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError, ConfigError, ResourceError

SMALL = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}


def settings(**more) -> BackboneSettings:
    facts = {
        "name": "tiny", "source": "random", "identifier": "tiny", "model_type": "llama", "num_layers": 3,
        "hidden_size": 16, "vocab_size": 40, "num_parameters": 1, "dtype": "float32", "config_overrides": SMALL,
    }  # fmt: skip
    return BackboneSettings(**{**facts, **more})


TOKENS_BT = torch.arange(12).reshape(2, 6)


def test_random_weights_follow_the_seed_alone_and_leave_the_global_stream_alone():
    torch.manual_seed(1)
    first = load_backbone(settings(), {}, seed=5).final(TOKENS_BT)
    drawn = torch.rand(1)
    forget_backbones()
    torch.manual_seed(2)
    assert torch.equal(load_backbone(settings(), {}, seed=5).final(TOKENS_BT), first)
    assert not torch.equal(load_backbone(settings(), {}, seed=6).final(TOKENS_BT), first)
    torch.manual_seed(1)
    load_backbone(settings(identifier="other"), {}, seed=5)
    assert torch.equal(torch.rand(1), drawn)


def test_a_bfloat16_backbone_is_the_model_that_transformers_loads(tmp_path):
    """Rotary frequencies stay float32: casting the whole module would round them too."""
    load_backbone(settings(), {}, seed=5).model.save_pretrained(tmp_path)
    ours = load_backbone(settings(source="folder", identifier=str(tmp_path), dtype="bfloat16"), {})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    tokens_BT = torch.arange(40).repeat(2, 1)
    assert ours.dtype == torch.bfloat16
    assert ours.model.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(ours.logits(ours.final(tokens_BT)), theirs(tokens_BT).logits)


def test_one_process_loads_a_backbone_once():
    assert load_backbone(settings(), {}, seed=5) is load_backbone(settings(), {}, seed=5)


def test_a_saved_folder_gives_the_same_states_and_frozen_weights(tmp_path):
    original = load_backbone(settings(), {}, seed=5)
    original.model.save_pretrained(tmp_path)
    loaded = load_backbone(settings(source="folder", identifier=str(tmp_path)), {})
    assert torch.equal(loaded.final(TOKENS_BT), original.final(TOKENS_BT))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.num_layers, loaded.hidden_size, loaded.vocab_size, loaded.dtype) == (3, 16, 40, torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 4}, "backbone.num_layers is 4 but the model has 3"),
        ({"hidden_size": 32}, "backbone.hidden_size is 32 but the model has 16"),
        ({"vocab_size": 41}, "backbone.vocab_size is 41 but the model has 40"),
        ({"model_type": "qwen2"}, "backbone.model_type is 'qwen2' but the model has 'llama'"),
    ],
)
def test_shapes_that_differ_from_the_settings_are_named_on_both_sides(tmp_path, change, message):
    load_backbone(settings(), {}, seed=5).model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_backbone(settings(source="folder", identifier=str(tmp_path), **change), {})


def test_a_folder_of_pickles_is_refused(tmp_path):
    model = load_backbone(settings(), {}, seed=5).model
    model.config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(AssetError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_backbone(settings(source="folder", identifier=str(tmp_path)), {})


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_noise(tmp_path):
    from safetensors.torch import load_file, save_file

    load_backbone(settings(), {}, seed=5).model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=r"1 missing_keys such as model.layers.1.mlp.up_proj.weight"):
        load_backbone(settings(source="folder", identifier=str(tmp_path)), {})


@pytest.mark.parametrize("kept", [0, 7, 3000])
def test_weights_whose_download_was_cut_off_are_one_sentence(tmp_path, kept):
    load_backbone(settings(), {}, seed=5).model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(AssetError, match="could not be loaded .*fetch it again"):
        load_backbone(settings(source="folder", identifier=str(tmp_path)), {})


@pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(60), b"not a gguf at all" * 9])
def test_a_corrupt_gguf_is_one_sentence(tmp_path, content):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(content)
    with pytest.raises(AssetError, match=r"broken\.gguf could not be loaded") as caught:
        load_backbone(settings(source="gguf", identifier=str(broken)), {})
    assert "\n" not in str(caught.value)


def test_a_missing_asset_says_what_to_run():
    with pytest.raises(AssetError, match=r"needs asset 'smollm2'.*dihal setup"):
        load_backbone(settings(source="asset", identifier="smollm2"), {})


def test_overrides_that_the_config_refuses_are_a_setting_error():
    with pytest.raises(ConfigError, match="config_overrides"):
        load_backbone(settings(config_overrides={"num_attention_heads": 3, "num_key_value_heads": 2}), {})


def test_a_layer_out_of_range_is_named():
    backbone = load_backbone(settings(), {}, seed=5)
    with pytest.raises(ConfigError, match=r"layer 4 is outside 0\.\.3"):
        backbone.prefix(TOKENS_BT, 4)
    with pytest.raises(ConfigError, match=r"layer 3 is outside 0\.\.2"):
        backbone.suffix(3)


def test_cuda_without_a_device_is_a_resource_error_and_threads_start_at_one():
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match=r"set compute\.device=cpu"):
            resolve_device("cuda")
        assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="below 1"):
        use_threads(0)
