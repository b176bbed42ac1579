"""Quantities written for people."""


def human_bytes(count: float, digits: int = 3) -> str:
    """Return `10.4 TB` for 10_380_902_400_000: `digits` significant digits, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.{digits}g} {unit}"
        count /= 1000
    return f"{count:.{digits}g} TB"
