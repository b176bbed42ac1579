"""What every layer metric keeps to, whatever it measures."""

import numpy as np
import pytest

from dihal_core.geometry.metrics import METRICS, measure_metrics, view_of

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((150, 12)) * np.exp(-np.arange(12) / 5.0) + 0.3
WIDE = RNG.standard_normal((90, 160)) * np.exp(-np.arange(160) / 40.0) + 0.3
SEQUENCES = RNG.standard_normal((5, 9, 12)).cumsum(axis=1)
HEAD = RNG.standard_normal((12, 20))
TARGETS = RNG.integers(0, 20, 150)


def arguments(name, x_ND, scale=1.0):
    """What `compute` of the metric is called with."""
    takes = METRICS[name].takes
    if takes == "rows":
        return (view_of(scale * x_ND),)
    if takes == "layers":
        return ({index: view_of(scale * x_ND[:, index:]).summary() for index in range(3)},)
    if takes == "sequences":
        return scale * SEQUENCES, None
    if takes == "embedding":
        return x_ND[:, :5], scale * x_ND
    return x_ND @ np.eye(x_ND.shape[1], 12), lambda x_BD: x_BD @ HEAD, TARGETS[: len(x_ND)]


@pytest.mark.parametrize("x_ND", [ROWS, WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_is_finite_reproducible_and_described(name, x_ND):
    metric = METRICS[name]
    value = metric.compute(*arguments(name, x_ND))
    assert np.isfinite(value).all()
    assert np.array_equal(value, metric.compute(*arguments(name, x_ND)))
    assert np.shape(value) == ((3, 3) if metric.takes == "layers" else ())
    assert metric.source
    assert metric.meaning
    assert metric.unit in ("1", "nat", "radian")


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"logit_lens_ce"}))
def test_every_metric_but_the_logit_lens_does_not_see_the_scale(name):
    plain, scaled = (METRICS[name].compute(*arguments(name, ROWS, scale)) for scale in (1.0, 64.0))
    assert scaled == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("name", sorted(name for name, metric in METRICS.items() if metric.takes == "rows"))
def test_metrics_of_rows_do_not_depend_on_row_order_or_rotation(name):
    rotation = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    value = METRICS[name].compute(view_of(ROWS))
    assert METRICS[name].compute(view_of(ROWS[::-1])) == pytest.approx(value, rel=1e-9)
    if name != "kurtosis":  # single columns have no meaning after a rotation
        assert METRICS[name].compute(view_of(ROWS @ rotation)) == pytest.approx(value, rel=1e-9)


def test_all_metrics_of_rows_come_from_one_view_and_undefined_ones_are_none():
    found = measure_metrics(view_of(ROWS))
    assert set(found) == {name for name, metric in METRICS.items() if metric.takes == "rows"}
    assert all(value is not None for value in found.values())
    few = measure_metrics(view_of(ROWS[:30]))
    assert few["dimension_gride_32"] is None
    assert few["dimension_twonn"] > 0
    assert measure_metrics(view_of(ROWS), ("rankme",)) == {"rankme": found["rankme"]}


def test_a_metric_of_ones_own_is_one_more_entry(monkeypatch):
    from dihal_core.geometry.metrics import LayerMetric

    mine = LayerMetric("rows", lambda view: float(view.num_rows), "1", "mine", "number of rows")
    monkeypatch.setitem(METRICS, "rows_seen", mine)
    assert measure_metrics(view_of(ROWS))["rows_seen"] == 150.0
