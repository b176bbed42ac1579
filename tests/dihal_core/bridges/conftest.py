import pytest
import torch

from dihal_core.config import MlpBridgeSettings, UnetBridgeSettings

SHARED = {"width": 32, "blocks": 2, "context_width": 32, "context_blocks": 2, "context_heads": 4}
SMALL_UNET = {
    **SHARED, "latent_channels": 2, "latent_side": 4, "block_channels": (8, 16), "layers_per_block": 1,
    "attention_heads": 2, "norm_groups": 4, "cross_attention_width": 16, "context_tokens": 4, "chunk_states": 16,
}  # fmt: skip
KINDS = {
    "mlp": MlpBridgeSettings(**SHARED),
    "unet-noise": UnetBridgeSettings(**SMALL_UNET),
    "unet-ridge": UnetBridgeSettings(**SMALL_UNET, start="ridge"),
    "unet-vae": UnetBridgeSettings(**{**SMALL_UNET, "vae": "random"}),
}
"""Small bridges for hidden size 24, every architecture and way to start."""


@pytest.fixture
def bridge_settings():
    """The default architecture, small."""
    return KINDS["mlp"]


@pytest.fixture(params=KINDS)
def every_bridge(request):
    """Each architecture in turn."""
    return KINDS[request.param]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
