"""Gates pass for what is exact and causal, and stop what is not."""

import json

import pytest
import torch

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.registry import Family
from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.causality import LeakyControl, random_arm
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.config import BackboneSettings, MlpBridgeSettings
from dihal_core.errors import GateError
from dihal_core.hybrid.gates import splice_gate
from dihal_core.hybrid.leaks import arm_leak, backbone_leak, control_leak, require_no_leak
from dihal_core.hybrid.model import Hybrid
from dihal_core.profiles import load_study
from dihal_core.progress import silent
from dihal_core.requests import make_request
from dihal_core.runner import ensure

BRIDGE = MlpBridgeSettings(width=16, blocks=1, context_width=16, context_blocks=1, context_heads=2)


def backbone(model_type: str = "llama", **overrides) -> Backbone:
    settings = BackboneSettings(
        name=f"tiny {model_type}", source="random", identifier="gates", model_type=model_type, num_layers=4,
        hidden_size=16, vocab_size=60, num_parameters=1, config_overrides={"initializer_range": 0.5, **overrides},
    )  # fmt: skip
    return load_backbone(settings, {}, seed=1)


def llama() -> Backbone:
    return backbone(num_attention_heads=2, num_key_value_heads=2, intermediate_size=24)


TOKENS_BT = torch.randint(0, 60, (3, 12), generator=torch.Generator().manual_seed(3))


class LeakyArm(Arm):
    kind = "leaky"

    def predict(self, embeddings_BTD, steps=1, sequence_B=None, seed=0):
        return LeakyControl(embeddings_BTD.shape[-1]).predict(embeddings_BTD)


def test_the_stage_writes_exact_zeros_and_a_caught_control(tmp_path):
    settings = load_study("smoke")
    corpus = ensure(make_request("corpus", settings, {"assets": {}}, tmp_path))
    record = ensure(make_request("gates", settings, {"assets": {}, "corpus": corpus}, tmp_path))
    gates = json.loads((record.path / "gates.json").read_bytes())
    assert [row["layer"] for row in gates["splice"]["layers"]] == [0, 1, 2, 3]
    assert gates["splice"]["max"] == 0.0
    assert gates["splice"]["tokens"] == 4 * 48
    assert [(row["kind"], row["weights"], row["max_change"]) for row in gates["leak"]["bridges"]] == [
        ("mlp", "random", 0.0),
        ("regressor", "random", 0.0),
    ]
    assert gates["leak"]["control"]["caught"]
    assert gates["leak"]["control"]["max_change"] > 0.01
    assert gates["leak"]["backbone"]["max_change"] == 0.0


def test_a_family_whose_line_leaves_something_out_is_stopped_with_the_layer():
    whole = backbone("gpt2", n_head=2)
    careless = Backbone(whole.model, Family(layers="h", norm="ln_f"), "GPT-2 without its rule")
    assert splice_gate(whole, TOKENS_BT, silent)["max"] == 0.0
    with pytest.raises(GateError, match=r"true state of layer 0 .* differ by .* GPT-2 without its rule"):
        splice_gate(careless, TOKENS_BT, silent)


@pytest.mark.parametrize("name", ["bridge", "regressor", "ridge", "table", "skip"])
def test_arms_with_random_weights_pass_the_leak_gate_exactly(name):
    embeddings_BTD = llama().embed(TOKENS_BT)
    arm = random_arm(BRIDGE, 16, seed=0, name=name)
    assert require_no_leak({name: arm}, embeddings_BTD, "random", seed=0) == {name: 0.0}


def test_an_arm_that_sees_the_future_is_named_and_stopped():
    embeddings_BTD = llama().embed(TOKENS_BT)
    leaky = LeakyArm(Frame(16, 3))
    assert arm_leak(leaky, embeddings_BTD, seed=0) > 0.01
    with pytest.raises(GateError, match="leaky one with trained weights changes by .* exactly 0 is required"):
        require_no_leak({"leaky one": leaky}, embeddings_BTD, "trained", seed=0)


def test_a_probe_that_cannot_see_the_control_is_an_error_and_not_a_pass():
    with pytest.raises(GateError, match="did not catch the leaky control"):
        control_leak(torch.zeros(2, 8, 16), seed=0)


def test_a_backbone_that_looks_ahead_is_stopped():
    model = llama()
    assert backbone_leak(model, TOKENS_BT) == 0.0

    class Averaging(Backbone):
        def final(self, tokens_BT):
            final_BTD = super().final(tokens_BT)
            return final_BTD + final_BTD.mean(dim=1, keepdim=True)

    with pytest.raises(GateError, match="only causal decoders"):
        backbone_leak(Averaging(model.model, Family(), "averaging"), TOKENS_BT)


def test_a_hybrid_with_the_true_first_state_is_the_teacher_from_layer_zero():
    model = llama()
    frame = Frame(16, 3)
    frame.sink_D.copy_(model.embed(TOKENS_BT)[0, 0])
    same_start_BT = torch.cat([TOKENS_BT[:1, :1].expand(3, 1), TOKENS_BT[:, 1:]], dim=1)
    hybrid = Hybrid(model, 0, make_arm("skip", BRIDGE, frame, seed=0))
    whole_BTV = model.model(same_start_BT).logits.to(torch.bfloat16)
    assert torch.equal(hybrid.logits(same_start_BT), whole_BTV)


def test_noise_belongs_to_a_window_and_not_to_its_place_in_the_batch():
    model = llama()
    hybrid = Hybrid(model, 2, random_arm(BRIDGE, 16, seed=0), steps=3, seed=5)
    embeddings_BTD = model.embed(TOKENS_BT)
    together_BTD = hybrid.hidden(embeddings_BTD, torch.tensor([7, 8, 9]))
    alone_BTD = hybrid.hidden(embeddings_BTD[1:2], torch.tensor([8]))
    assert torch.allclose(together_BTD[1:2], alone_BTD, atol=1e-4)
    assert not torch.allclose(together_BTD[1:2], hybrid.hidden(embeddings_BTD[1:2], torch.tensor([7])), atol=1e-2)
