import csv
import io

from dihal_core.reporting.tables_agreement import (
    ARM_FIELDS,
    loss_table,
    partial_table,
    predictor_table,
    rule_table,
    sweep_long_table,
    sweep_table,
)


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_the_sweep_keeps_a_row_for_a_failed_layer_with_its_reason(data):
    table = sweep_table(data["sweep"], {7: "out of memory"}, 1)
    rows = {row["layer"]: row for row in rows_of(table)}
    assert rows["7"]["status"] == "out of memory"
    assert rows["7"]["bridge_fvu"] == ""
    assert table.mark(6) == "missing"
    assert float(rows["8"]["regressor_fvu"]) == data["sweep"][8]["arms"]["regressor"]["fvu"]
    assert rows["9"]["regressor_fvu"] == ""
    assert float(rows["9"]["teacher_nll"]) == 3.002


def test_the_long_table_is_the_whole_sweep(data):
    rows = rows_of(sweep_long_table(data["sweep"]))
    assert len(rows) == 28 * 4
    for row in rows:
        source = data["sweep"][int(row["layer"])]["arms"][row["arm"]] or {}
        for name in ARM_FIELDS:
            assert row[name] == ("" if source.get(name) is None else str(source[name]))


def test_predictors_are_ranked_and_the_score_is_marked(data):
    table = predictor_table(data["agreement"])
    values = [row["spearman"] for row in table.rows]
    assert values == sorted(values, reverse=True)
    assert table.rows[table.marks.index("selected")]["predictor"] == "geometry score S (paper)"


def test_the_papers_loss_comes_first_and_the_headline_next_although_json_sorts_names(data):
    data["agreement"]["losses"] = dict(sorted(data["agreement"]["losses"].items()))
    table = loss_table(data["agreement"])
    assert table.rows[0]["loss"].endswith("(the paper's bridge loss)")
    assert table.rows[1]["loss"].startswith("fraction of variance unexplained")
    assert [table.mark(0), table.mark(1)] == ["", "selected"]
    assert table.rows[1]["p"] == 0.0005
    assert table.rows[1]["regret_5"] == 0.0


def test_what_training_fewer_layers_saves_stands_beside_its_regret(data):
    data["agreement"]["compute_saved"] = {"1": 28 / 29, "3": 26 / 29, "5": 24 / 29}
    labels = {column.key: column.label for column in loss_table(data["agreement"]).columns}
    assert labels["regret_3"].startswith("regret@3 (90")
    assert labels["regret_5"].startswith("regret@5 (83")


def test_a_regret_that_covers_all_trained_layers_is_missing_and_its_heading_says_why(data):
    for block in data["agreement"]["losses"].values():
        block["regret"]["5"] = None
        block["regret_layers"] = {"5": {"with_loss": 5, "without_loss": 0, "all_with_loss": True}}
    table = loss_table(data["agreement"])
    labels = {column.key: column.label for column in table.columns}
    assert labels["regret_5"].endswith("all trained layers: no test)")
    assert labels["regret_3"] == "regret@3"
    assert table.cells()[0][[column.key for column in table.columns].index("regret_5")] == "\u2013"


def test_a_partial_correlation_is_read_by_its_interval(data):
    found = data["agreement"]["losses"]["fvu"]["partial"]
    found["given_log_norm"] = {"value": 0.5, "low": 0.2, "high": 0.7, "p": 0.01}
    readings = [row["reading"] for row in partial_table(data["agreement"]).rows[3:6]]
    assert readings == ["covers 0", "clear of 0", None]


def test_rules_come_early_to_late_and_then_the_score(data):
    data["agreement"]["rules"] = dict(sorted(data["agreement"]["rules"].items()))
    assert [row["rule"] for row in rule_table(data["agreement"]).rows] == ["Early", "Middle", "Late", "geometry score"]


def test_rules_and_predictors_are_judged_by_the_papers_loss_too(data):
    agreement = data["agreement"]
    points = {point["layer"]: point["paper_bridge_loss"] for point in agreement["points"]}
    for row in rule_table(agreement).rows:
        assert row["rank_paper_bridge_loss"] == 1 + sorted(points.values()).index(points[row["layer"]])
    agreement["losses"]["paper_bridge_loss"]["predictors"] = {"depth": {"spearman": 0.25}}
    depth = next(row for row in predictor_table(agreement).rows if row["predictor"].startswith("depth alone"))
    assert (depth["paper_spearman"], depth["spearman"]) == (0.25, 0.961)
