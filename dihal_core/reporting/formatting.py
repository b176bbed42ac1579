"""Numbers as people read them: significant digits, intervals, thousands, an en dash where there is none.

An interval is a mapping `{"value", "low", "high"}` whose entries are floats or None.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

DASH = "\u2013"
"""Shown wherever a value is missing; never `None` or `nan`."""
MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether `value` is a finite int or float (bool is neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def superscript(exponent: int) -> str:
    """Return `exponent` in Unicode superscript digits, e.g. `10` + `superscript(-3)` is ten to the minus three."""
    return str(exponent).translate(_SUPERSCRIPTS)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _scientific(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}\u00d710{superscript(int(exponent))}"


def _style(magnitude: float, digits: int) -> int | None:
    """Decimals for numbers of this magnitude, or None where powers of ten read better."""
    if magnitude and (magnitude >= 1e6 or magnitude < 1e-3):
        return None
    return max(0, digits - 1 - _exponent(magnitude)) if magnitude else digits - 1


def _fixed(value: float, decimals: int | None, digits: int) -> str:
    text = _scientific(value, digits) if decimals is None and value else f"{value:,.{decimals or 0}f}"
    if not any(character in "123456789" for character in text):
        text = text.lstrip("-")  # no minus before a rounded zero
    return text.replace("-", MINUS, 1) if text.startswith("-") else text


def needs_powers(values: Iterable[Any]) -> bool:
    """Return whether most of these numbers read better with a power of ten, so that their column shares one style."""
    sizes = [abs(value) for value in values if is_number(value) and value]
    return 2 * sum(_style(size, 3) is None for size in sizes) > len(sizes)


def power(value: Any, digits: int = 3) -> str:
    """Return `value` with a power of ten whatever its size."""
    return _fixed(float(value), None, digits) if is_number(value) else DASH


def number(value: Any, digits: int = 3, decimals: int | None = None) -> str:
    """Return `value` with `digits` significant digits, or exactly `decimals` decimals if given.

    Missing and non-finite values give an en dash; from one million up and below 1e-3 powers of ten are used.
    """
    if not is_number(value):
        return DASH
    value = float(value)
    if value == 0 and decimals is None:
        return "0"
    return _fixed(value, _style(abs(value), digits) if decimals is None else decimals, digits)


def bracket(interval: Any, digits: int = 3, decimals: int | None = None) -> str:
    """Return `[low, high]` of an interval in the same decimals as its value, or an empty string."""
    bounds = bounds_of(interval)
    if bounds is None:
        return ""
    low, high = bounds
    if decimals is None:
        decimals = _style(max(abs(low), abs(high), abs(value_of(interval) or 0.0)), digits)
    return f"[{_fixed(low, decimals, digits)}, {_fixed(high, decimals, digits)}]"


def interval_text(interval: Any, digits: int = 3, decimals: int | None = None) -> str:
    """Return `value [low, high]`; only the value where there are no bounds; an en dash where there is neither."""
    value, bounds = value_of(interval), bounds_of(interval)
    if value is not None and bounds is not None and decimals is None:
        style = _style(max(abs(value), abs(bounds[0]), abs(bounds[1])), digits)
        return f"{_fixed(value, style, digits)} {bracket(interval, digits)}"
    return f"{number(value, digits, decimals)} {bracket(interval, digits, decimals)}".strip()


def power_interval(interval: Any, digits: int = 3) -> str:
    """Return `value [low, high]` with powers of ten whatever the size."""
    bounds = bounds_of(interval)
    value = power(value_of(interval), digits)
    return f"{value} [{power(bounds[0], digits)}, {power(bounds[1], digits)}]" if bounds else value


def value_of(interval: Any) -> float | None:
    """Return the finite point value of an interval or bare number, else None."""
    value = interval.get("value") if isinstance(interval, Mapping) else interval
    return float(value) if is_number(value) else None


def bounds_of(interval: Any) -> tuple[float, float] | None:
    """Return the finite (low, high) of an interval, else None."""
    if isinstance(interval, Mapping) and is_number(interval.get("low")) and is_number(interval.get("high")):
        return float(interval["low"]), float(interval["high"])
    return None


def integer(value: Any) -> str:
    """Return a count with thousands separators."""
    return f"{round(value):,}".replace("-", MINUS) if is_number(value) else DASH


def percent(value: Any, decimals: int = 0) -> str:
    """Return a fraction as per cent; `<1 %` and `>99 %` instead of a rounding to 0 or 100 that is not exact."""
    if not is_number(value):
        return DASH
    if decimals == 0 and 0 < value < 0.005:
        return "<1\u00a0%"
    if decimals == 0 and 0.995 <= value < 1:
        return ">99\u00a0%"
    return f"{100 * value:.{decimals}f}\u00a0%"


def p_value(value: Any) -> str:
    """Return `p = 0.012`, or `p < 0.001`."""
    if not is_number(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def byte_size(value: Any) -> str:
    """Return bytes in kB, MB, GB or TB (powers of 1000)."""
    if not is_number(value):
        return DASH
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def duration(seconds: Any) -> str:
    """Return seconds as `8.4 s`, `3 min 05 s` or `2 h 10 min`."""
    if not is_number(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def joined(words: list[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def layer_ranges(layers: list[int]) -> str:
    """Return sorted layers as `1-3, 7`, with en dashes in ranges."""
    parts: list[str] = []
    ordered = sorted(set(layers))
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] != ordered[index - 1] + 1:
            first, last = ordered[start], ordered[index - 1]
            parts.append(str(first) if first == last else f"{first}{DASH}{last}")
            start = index
    return ", ".join(parts)
