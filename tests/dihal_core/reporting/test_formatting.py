import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihal_core.reporting.formatting import (
    DASH,
    MINUS,
    byte_size,
    duration,
    integer,
    interval_text,
    joined,
    layer_ranges,
    needs_powers,
    number,
    p_value,
    percent,
    power,
)

SUPERSCRIPT_DIGITS = {
    c: str(i) for i, c in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
} | {"\u207b": "-"}


def parse(text: str) -> float:
    mantissa, _, exponent = text.replace(MINUS, "-").replace(",", "").partition("\u00d710")
    return float(mantissa) * 10.0 ** int("".join(SUPERSCRIPT_DIGITS[c] for c in exponent) or 0)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf, "text", True, {}])
def test_what_is_not_a_finite_number_is_an_en_dash(missing):
    for show in (number, integer, percent, byte_size, duration, power):
        assert show(missing) == DASH


def test_an_interval_without_value_or_bounds_shows_what_there_is():
    assert interval_text(None) == DASH
    assert interval_text({"value": None, "low": None, "high": None}) == DASH
    assert interval_text({"value": 0.812, "low": None, "high": None}) == "0.812"
    assert interval_text({"value": None, "low": 0.1, "high": 0.2}) == f"{DASH} [0.100, 0.200]"
    assert interval_text(0.5) == "0.500"


def test_value_and_bounds_share_their_decimals():
    assert interval_text({"value": 24.779, "low": 23.57, "high": 26.04}) == "24.8 [23.6, 26.0]"
    assert interval_text({"value": 0.9, "low": -0.05, "high": 11.25}) == f"0.9 [{MINUS}0.1, 11.2]"
    assert interval_text({"value": 0.812, "low": 0.604, "high": 0.921}, decimals=2) == "0.81 [0.60, 0.92]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0001234, f"{MINUS}1.23\u00d710\u207b\u2074"),
        (1e6, "1.00\u00d710\u2076"),
        (73130.4, "73,130"),
        (0.001, "0.00100"),
        (999.9, "1,000"),
    ],
)
def test_numbers_read_as_people_write_them(value, text):
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_a_shown_number_is_the_number_to_three_digits(value):
    shown = number(value)
    if value == 0:
        assert shown == "0"
    elif abs(value) > 1e-300:
        assert parse(shown) == pytest.approx(value, rel=6e-3)


def test_a_rounded_zero_has_no_minus():
    assert number(-0.001, decimals=2) == "0.00"


def test_a_share_is_never_rounded_to_certainty():
    assert percent(0.999) == ">99\u00a0%"
    assert percent(0.001) == "<1\u00a0%"
    assert (percent(1.0), percent(0.0)) == ("100\u00a0%", "0\u00a0%")


def test_sizes_and_times_have_units():
    assert byte_size(2_950_000_000) == "2.95 GB"
    assert byte_size(12) == "12 B"
    assert duration(8.44) == "8.4 s"
    assert duration(185) == "3 min 05 s"
    assert duration(7800) == "2 h 10 min"


def test_words_and_layers_are_joined_for_reading():
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"
    assert layer_ranges([7, 1, 2, 3]) == f"1{DASH}3, 7"
    assert layer_ranges([]) == ""


def test_p_values_are_not_below_their_resolution():
    assert p_value(0.0002) == "p < 0.001"
    assert p_value(0.0512) == "p = 0.051"
    assert p_value(None) == ""


def test_a_column_uses_powers_only_if_most_of_it_needs_them():
    assert needs_powers([1e-5, 1e-4, 0.5])
    assert not needs_powers([1e7, 20.0, 30.0])
    assert not needs_powers([None, 0.0])
