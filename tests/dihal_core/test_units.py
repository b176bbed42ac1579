"""Quantities written for people."""

from dihal_core.units import human_bytes


def test_bytes_are_said_in_units_people_read():
    assert [human_bytes(n) for n in (0, 999, 1500, 2.7e9)] == ["0 B", "999 B", "1.5 kB", "2.7 GB"]
    assert human_bytes(10_380_902_400_000, 4) == "10.38 TB"
