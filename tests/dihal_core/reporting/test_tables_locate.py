import csv
import io

from dihal_core.reporting.tables_locate import comparator_table, layer_table, stability_table, variant_table


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_the_layer_table_holds_every_field_of_the_score(data):
    rows = rows_of(layer_table(data["score"]))
    assert [row["layer"] for row in rows] == [str(k) for k in range(31)]
    for row, source in zip(rows, data["score"]["layers"], strict=True):
        assert row["role"] == ("candidate" if source["candidate"] else "control")
        for key, value in source.items():
            if key in ("candidate", "layer"):
                continue
            if isinstance(value, dict):
                assert [float(row[f"{key}{end}"]) for end in ("", "_low", "_high")] == list(value.values())
            else:
                assert row[key] == ("" if value is None else str(value))


def test_candidates_controls_and_the_selected_layer_are_told_apart(data):
    table = layer_table(data["score"])
    assert [table.mark(k) for k in (0, 1, 2, 30)] == ["control", "selected", "", "control"]


def test_the_layer_table_holds_the_bias_of_the_score_and_the_worth_of_the_rows(data):
    for row in data["score"]["layers"]:
        row["effective_rows"] = 4096.4
        if row["candidate"]:
            row["score"]["bias"] = -0.0123
    table = layer_table(data["score"])
    keys = [column.key for column in table.columns]
    cells = table.cells()
    assert {row[keys.index("effective_rows")] for row in cells} == {"4,096"}
    assert [row[keys.index("bias")] for row in cells[:2]] == ["\u2013", "\u22120.012"]


def test_variants_and_stability_are_named_in_words(data):
    assert variant_table(data["score"]).rows[0]["variant"] == "geometry score S (paper)"
    assert [row["spearman"] for row in stability_table(data["score"]).rows] == [0.998, 0.991, 0.999]


def test_the_score_stands_beside_all_its_rivals_and_the_ridge_where_there_is_one(data):
    table = comparator_table(data["score"], {1: 0.9, 2: None}, "3 tokens")
    names = [column.key for column in table.columns]
    assert names[:2] == ["layer", "raw"]
    assert {"depth", "minus_log_norm", "unit_trace", "curvature", "ridge_r2", "identity_ratio"} <= set(names)
    by_layer = {row["layer"]: row for row in table.rows}
    assert by_layer[1]["ridge_r2"] == 0.9
    assert by_layer[2]["ridge_r2"] is by_layer[3]["ridge_r2"] is None
    assert "ridge_r2" not in [column.key for column in comparator_table(data["score"]).columns]
