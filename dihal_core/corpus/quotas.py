"""How many windows each source gives: shares, largest remainder, and what a short source leaves to others."""

from collections.abc import Callable, Mapping


def largest_remainder(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Split `total` in proportion to `shares`; whole numbers that add up exactly.

    Ties of the fractional part go to the name that comes first in `shares`.

    Raises
    ------
    ValueError
        If a share is negative or all are zero while something is to be split.
    """
    weight = sum(shares.values())
    if any(share < 0 for share in shares.values()) or (total and weight <= 0):
        raise ValueError(f"shares {dict(shares)} must be >= 0 and not all 0")
    if not total:
        return dict.fromkeys(shares, 0)
    exact = {name: total * share / weight for name, share in shares.items()}
    quota = {name: int(value) for name, value in exact.items()}
    order = sorted(shares, key=lambda name: quota[name] - exact[name])
    for name in order[: total - sum(quota.values())]:
        quota[name] += 1
    return quota


def fill(
    total: int, shares: Mapping[str, float], take: Callable[[str, int], int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Take `total` in proportion to `shares`; what a source cannot give, the others give in proportion.

    Parameters
    ----------
    total
        How many are wanted.
    shares
        Relative share of every source.
    take
        `take(source, n)` takes up to n more from `source` and returns how many; fewer means it is empty.

    Returns
    -------
    quota, taken
        First allotment and what was really taken, by source. `sum(taken) < total` if all ran dry.
    """
    quota = largest_remainder(total, shares)
    taken = dict.fromkeys(shares, 0)
    asked, active = quota, {name: share for name, share in shares.items() if share > 0}
    while True:
        for name in list(active):
            got = take(name, asked[name]) if asked.get(name) else 0
            taken[name] += got
            if got < asked.get(name, 0):
                del active[name]
        short = total - sum(taken.values())
        if not short or not active:
            return quota, taken
        asked = largest_remainder(short, active)
