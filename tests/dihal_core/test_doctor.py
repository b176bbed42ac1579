import pytest

from dihal_core import doctor
from dihal_core.doctor import check_assets, check_disk, check_pins, checks
from dihal_core.profiles import load_study


def test_this_machine_passes_and_every_check_says_something(tmp_path):
    found = {name: (fine, text) for name, fine, text in checks(load_study("smoke"), tmp_path)}
    assert set(found) == {"python", "pins", "packages", "disk", "store", "memory", "device", "assets"}
    assert all(text for _, text in found.values())
    for name in ("python", "pins", "packages", "disk"):
        assert found[name][0], found[name]
    assert "none needed" in found["assets"][1]


@pytest.mark.parametrize(
    ("name", "low", "high"), [("numpy", "99", "100"), ("numpy", "0.1", "0.2"), ("no-such-package", "1", "2")]
)
def test_a_version_outside_its_range_is_named_with_the_range(name, low, high, monkeypatch):
    monkeypatch.setitem(doctor.PINS, name, (low, high))
    _, fine, text = check_pins()
    assert not fine
    assert f"needs >={low},<{high}" in text
    assert "make install" in text


def test_a_study_that_does_not_fit_the_disk_is_told(tmp_path):
    settings = load_study("paper-llama-3.1-8b", overrides={"activations.store_everything": True})
    name, fine, text = check_disk(settings, tmp_path / "not" / "yet")
    assert (name, fine) == ("disk", False)
    assert "set DIHAL_HOME to a larger disk" in text


def test_assets_that_were_not_fetched_are_named(tmp_path):
    _, fine, text = check_assets(load_study("quickstart"), tmp_path)
    assert not fine
    assert "smollm2-135m-instruct-q4_1 (never made" in text
    assert "run `dihal setup`" in text
