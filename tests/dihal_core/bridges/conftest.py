import pytest
import torch

from dihal_core.config import MlpBridgeSettings


@pytest.fixture
def bridge_settings():
    """A small bridge for hidden size 24."""
    return MlpBridgeSettings(width=32, blocks=2, context_width=32, context_blocks=2, context_heads=4)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
