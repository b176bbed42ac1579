"""One SHA-256 for the weights of a model, whatever files they came from."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

WORKERS = 4


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over (name, dtype, shape, SHA-256 of the bytes) of all weights, sorted by name.

    A GGUF and a safetensors copy of the same values agree; one changed bit, another dtype or a renamed
    tensor does not. Tensors that are shared under several names are read once.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    shared = {(tensor.data_ptr(), tensor.shape, tensor.stride()): tensor for tensor in state.values()}
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        found = dict(zip(shared, pool.map(_bytes_digest, shared.values()), strict=True))
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest = found[tensor.data_ptr(), tensor.shape, tensor.stride()]
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0{digest}\n".encode())
    return total.hexdigest()


def _bytes_digest(tensor: torch.Tensor) -> str:
    flat = tensor.cpu().contiguous().flatten()
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
