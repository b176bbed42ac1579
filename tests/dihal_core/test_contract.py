import pytest

from dihal_core.contract import SettingsView, unit_label
from dihal_core.profiles import load_study


def test_an_undeclared_read_is_an_error():
    view = SettingsView(load_study("smoke"), "geometry", ("geometry", "corpus.window_tokens"))
    assert view.geometry.k == 5
    assert view.corpus.window_tokens == 48
    with pytest.raises(AttributeError, match=r"'geometry' reads setting 'sweep'"):
        _ = view.sweep
    with pytest.raises(AttributeError, match=r"'corpus\.kind'"):
        _ = view.corpus.kind


def test_units_have_sortable_labels():
    assert unit_label(7) == "L07"
    assert unit_label("heldout") == "heldout"
