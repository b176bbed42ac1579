import re
import threading
import xml.etree.ElementTree as ET

import pytest

from dihal_core.reporting import figures
from dihal_core.reporting.canvas import inline_svg, png_bytes, svg_text
from dihal_core.reporting.draw_agreement import draw_agreement, draw_predictors, draw_sweep
from dihal_core.reporting.draw_locate import draw_cka, draw_geometry, draw_score
from dihal_core.reporting.draw_replace import draw_evaluation, draw_training
from dihal_core.reporting.palette import DARK, LIGHT

PNG = b"\x89PNG\r\n\x1a\n"


def all_pngs(data):
    return {
        "geometry": figures.figure_geometry(data["score"], dpi=40),
        "score": figures.figure_score(data["score"], dpi=40),
        "sweep": png_bytes(draw_sweep(data["sweep"], {7: "failed"}, 1), 40),
        "agreement": figures.figure_agreement(data["agreement"], dpi=40),
        "predictors": png_bytes(draw_predictors(data["agreement"]), 40),
        "training": figures.figure_training(data["replace"], dpi=40),
        "evaluation": png_bytes(draw_evaluation(data["evaluate"]), 40),
    }


def texts_of(svg: str) -> list[str]:
    return [
        re.sub(r"\s+", " ", "".join(node.itertext())).strip()
        for node in ET.fromstring(svg).iter()
        if node.tag.endswith("text")
    ]


def test_figures_are_the_same_bytes_again_also_from_another_thread_at_the_same_time(data):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(all_pngs(data)))
    thread.start()
    first = all_pngs(data)
    thread.join()
    assert len(seen) == 1
    for again in seen:
        assert again == first
    assert all(png.startswith(PNG) and b"Software" not in png and b"Date" not in png for png in first.values())


def test_inline_svg_has_no_fixed_colour_no_foreign_font_and_ids_of_its_own(data):
    svg = inline_svg(svg_text(draw_score(data["score"])), "score", 'S & "depth" <x>')
    ET.fromstring(svg.replace("href", "xlink-href"))
    assert not re.search(r"#[0-9a-fA-F]{6}", svg)
    assert "DejaVu" not in svg
    assert "http" not in svg
    assert all(found.startswith("score-") for found in re.findall(r'\bid="([^"]+)"', svg))
    assert 'aria-label="S &amp; &quot;depth&quot; &lt;x&gt;"' in svg
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg)) <= ids


def test_every_role_has_one_light_colour_and_a_dark_one():
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_controls_do_not_set_the_scale_and_keep_their_value(data):
    figure = draw_geometry(data["score"])
    low, high = figure.axes[0].get_ylim()
    assert high < 1.0
    assert low > 0
    assert "1.0\u00d710\u2076" in texts_of(svg_text(figure))


def test_the_score_figure_names_the_selected_layer(data):
    assert "layer 1" in texts_of(svg_text(draw_score(data["score"])))


def test_a_failed_layer_is_a_gap_and_not_a_line_across(data):
    figure = draw_sweep(data["sweep"], {7: "failed"})
    bridge = next(line for line in figure.axes[0].lines if line.get_label() == "bridge (diffusion)")
    points = dict(zip(bridge.get_xdata(), bridge.get_ydata(), strict=True))
    assert points[7] != points[7]
    assert points[6] == data["sweep"][6]["arms"]["bridge"]["fvu"]
    assert "\u00d7" in texts_of(svg_text(figure))


def test_predicted_and_observed_best_layer_are_both_marked(data):
    for point in data["agreement"]["points"]:
        if point["layer"] == 4:
            point["fvu"] = 0.01
    labels = draw_agreement(data["agreement"]).axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {"predicted: layer 1", "observed best: layer 4"}


def test_predictors_are_sorted_with_the_best_on_top(data):
    ticks = [tick.get_text() for tick in draw_predictors(data["agreement"]).axes[0].get_yticklabels()]
    assert ticks[-1].startswith("ridge map")
    assert ticks[0] == "S, unit trace, outlier rows dropped"


def test_an_arm_far_off_does_not_set_the_scale(data):
    figure = draw_evaluation(data["evaluate"])
    assert figure.axes[0].get_xlim()[1] < 50
    assert "73,130" in texts_of(svg_text(figure))


def test_names_are_not_read_as_mathematics(data):
    hostile = r"$\frac{1}{0}$ <b>"
    block = {**data["evaluate"]["heldout"], "set": hostile}
    block["arms"] = {**block["arms"], hostile: block["arms"]["skip"]}
    found = texts_of(svg_text(draw_evaluation({hostile: block})))
    assert any(hostile in text for text in found)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_values_are_drawn(data, scale):
    for row in data["score"]["layers"]:
        for key in ("curvature", "monotonicity", "effective_rank"):
            row[key] = {name: value * scale for name, value in row[key].items()}
    assert figures.figure_geometry(data["score"], dpi=50).startswith(PNG)


def test_nulls_are_drawn_as_nothing(data):
    for row in data["score"]["layers"]:
        row.update(curvature={"value": None, "low": None, "high": None}, score=None, selection_probability=None)
    data["agreement"]["points"] = [{"layer": 1, "score": None, "fvu": None, "kl": None}]
    data["agreement"]["losses"]["fvu"]["predictors"] = {"raw": {"spearman": None}}
    for block in data["sweep"].values():
        block["arms"] = dict.fromkeys(block["arms"])
    drawn = [
        draw_geometry(data["score"]),
        draw_score(data["score"]),
        draw_agreement(data["agreement"]),
        draw_predictors(data["agreement"]),
        draw_sweep(data["sweep"]),
        draw_sweep({}),
        draw_training({"layer": 1, "arms": {}, "curve": {"bridge": []}}),
        draw_evaluation({}),
    ]
    for figure in drawn:
        text = " ".join(texts_of(svg_text(figure)))
        assert "nan" not in text
        assert "None" not in text


def test_the_similarity_of_layers_is_one_cell_per_pair_and_frames_the_selected_layer():
    matrix = [[1.0, 0.5, 0.1], [0.5, 1.0, 0.4], [0.1, 0.4, 1.0]]
    figure = draw_cka([0, 1, 2], matrix, selected=1)
    axes = figure.axes[0]
    assert axes.collections[0].get_array().reshape(3, 3).tolist() == matrix
    assert axes.patches[0].get_x() == 0.5
