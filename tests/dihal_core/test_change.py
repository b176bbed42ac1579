"""The difference to the study before it, as readers of the published page see it."""

from importlib import resources

import pytest

from dihal_core.change import PLACE, change_page, publish_change, sentence, with_change

CHANGE = {
    "line": "Change     selected layer 2 -> 3, probability 0.81 (was 0.77), against study s; changed: corpus.kind a -> <b>",
    "study_before": "s",
    "selected_layer": [2, 3],
    "selection_probability": [0.77, 0.81],
    "score_spearman": None,
    "agreement_spearman": [0.5, None],
    "kl": {"heldout": [0.25, 0.125]},
    "changed": ["corpus.kind a -> <b>"],
    "published_before": "2030-01-01T00:00:00+00:00",
}


def test_the_page_gains_one_escaped_line_and_nothing_else():
    page = b"<header><h1>T</h1>\n</header><p>x</p>"
    told = with_change(page, CHANGE, "difference.md")
    assert b"selected layer 2 -&gt; 3, probability 0.81" in told
    assert b"a -&gt; &lt;b&gt;" in told
    assert b'<a href="difference.md">' in told
    start = told.index(b'<p class="facts" id="change">')
    assert told[:start] + told[told.index(PLACE) :] == page


@pytest.mark.parametrize("template", ["report.html.j2", "locate.html.j2"])
def test_both_pages_have_the_one_place_where_it_goes(template):
    text = resources.files("dihal_core.reporting").joinpath("templates", template).read_bytes()
    assert text.count(PLACE) == 1


def test_the_full_difference_lies_beside_the_report_and_goes_with_it(tmp_path):
    publish_change(tmp_path, "report", CHANGE)
    text = (tmp_path / "difference.md").read_text(encoding="utf-8")
    assert sentence(CHANGE) in text
    assert "| KL on heldout | 0.25 | 0.125 |" in text
    assert "| Spearman of score and bridge loss | 0.5 | none |" in text
    assert "- corpus.kind a -> <b>" in change_page(CHANGE)
    publish_change(tmp_path, "report", None)
    assert not (tmp_path / "difference.md").exists()
