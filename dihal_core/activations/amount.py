"""How much a dump will write, known from settings alone, and the door in front of the paper's way. Imports no torch.

The paper stores the states of every position of every layer: 300K windows of 128 tokens of a model with
32 blocks of width 4096 are 10.4 TB. What its geometry reads of them is below 1 %, so that stays behind
`activations.store_everything` and a number that only someone who saw the bytes can give.
"""

from collections.abc import Mapping
from typing import Any

from dihal_core.activations.plan import estimate_bytes
from dihal_core.errors import ConfigError
from dihal_core.units import human_bytes

GIGABYTE = 10**9


def dump_bytes(settings: Any) -> dict[str, int]:
    """Return bytes by section (`geom`: pool, `full`: whole windows) of the dump that `settings` (StudySettings) asks for."""
    chosen = settings.activations
    return estimate_bytes(
        hidden_size=settings.backbone.hidden_size,
        table_layers=len(settings.table_layers),
        candidate_layers=len(settings.table_layers if chosen.store_everything else settings.candidate_layers),
        sequences=chosen.num_sequences,
        positions_per_sequence=chosen.positions_per_sequence,
        whole_sequences=chosen.num_sequences if chosen.store_everything else chosen.whole_sequences,
        window_tokens=settings.corpus.window_tokens,
    )


def describe_amount(sections: Mapping[str, int]) -> str:
    """Return one clause that names the sum and every section."""
    parts = [f"{name} {human_bytes(count, 4)}" for name, count in sections.items() if count]
    return f"{human_bytes(sum(sections.values()), 4)} ({', '.join(parts)})"


def require_confirmed(sections: Mapping[str, int], layers: int, windows: int, confirmed_gigabytes: float) -> None:
    """Refuse to store everything until the number of gigabytes was confirmed.

    Parameters
    ----------
    sections
        Bytes of `geom` and `full`.
    layers, windows
        What is stored whole.
    confirmed_gigabytes
        Setting `compute.confirm_gigabytes`.

    Raises
    ------
    ConfigError
        With the bytes and the number that confirms them.
    """
    whole, total = sections["full"], sum(sections.values())
    needed = -(-total // GIGABYTE)
    if confirmed_gigabytes < needed:
        raise ConfigError(
            f"activations.store_everything stores all {layers} layers of every position of {windows} windows: "
            f"{human_bytes(whole, 4)} ({whole} bytes), {human_bytes(total, 4)} with the pool, and compute.confirm_gigabytes "
            f"is {confirmed_gigabytes:g}; set compute.confirm_gigabytes={needed} to confirm, or leave "
            "activations.store_everything off: the geometry reads sampled positions only"
        )
