import threading

import torch

from dihal_core.bridges.arms import make_arm, own_state
from dihal_core.bridges.frame import Frame
from dihal_core.bridges.latents import load_vae
from dihal_core.config import UnetBridgeSettings


def test_an_arm_built_while_another_thread_loads_a_model_has_all_its_weights(tmp_path):
    """Loading switches torch's initialisers off for the whole process: norms built meanwhile held arbitrary memory."""
    load_vae("random", None, 2).save_pretrained(tmp_path, safe_serialization=True)
    settings = UnetBridgeSettings(
        width=32, context_width=32, context_heads=4, latent_channels=2, latent_side=4, block_channels=(8, 16),
        layers_per_block=1, attention_heads=2, norm_groups=4, cross_attention_width=16, context_tokens=4,
    )  # fmt: skip
    wanted = own_state(make_arm("bridge", settings, Frame(24, 3), seed=0))
    done, loads = threading.Event(), []

    def load() -> None:
        while not done.is_set():
            loads.append(load_vae(str(tmp_path), None, 2))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        built = [own_state(make_arm("bridge", settings, Frame(24, 3), seed=0)) for _ in range(6)]
    finally:
        done.set()
        thread.join()
    assert loads
    for state in built:
        assert all(torch.equal(state[name], value) for name, value in wanted.items())
