import base64
import csv
import io

from dihal_core.reporting.tables import Column, Table

COLUMNS = (
    Column("name", "name", "text"),
    Column("score", "score", "interval"),
    Column("rows", "rows", "count"),
    Column("loss", "loss"),
)
ROWS = (
    {"name": 'a, "quoted"', "score": {"value": 1 / 3, "low": 0.1, "high": 0.7}, "rows": 12345, "loss": 1e-17},
    {"name": "pipe | <b> `tick`\nline", "score": None, "rows": None, "loss": None},
)
TABLE = Table("thing", "A thing", COLUMNS, ROWS, ("selected", ""))


def test_csv_round_trips_in_full_precision():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[0]["name"] == ROWS[0]["name"]
    assert float(rows[0]["score"]) == 1 / 3
    assert (float(rows[0]["score_low"]), float(rows[0]["score_high"])) == (0.1, 0.7)
    assert int(rows[0]["rows"]) == 12345
    assert float(rows[0]["loss"]) == 1e-17
    assert rows[1]["name"] == ROWS[1]["name"]
    assert {rows[1][key] for key in ("score", "score_low", "score_high", "rows", "loss")} == {""}


def test_the_data_uri_holds_the_same_csv():
    head, _, body = TABLE.csv_uri().partition(",")
    assert head == "data:text/csv;charset=utf-8;base64"
    assert base64.b64decode(body).decode() == TABLE.csv()


def test_a_markdown_cell_cannot_break_the_table_or_carry_html():
    lines = TABLE.markdown().splitlines()
    assert len(lines) == 4
    assert "<b>" not in TABLE.markdown()
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)


def test_the_selected_row_is_bold_and_numbers_are_right_aligned():
    _, rule, first, second = TABLE.markdown().splitlines()
    assert rule == "|:--|--:|--:|--:|"
    assert first.count("**") == 8
    assert "**" not in second


def test_one_column_keeps_to_one_notation():
    table = Table("t", "t", (Column("x", "x"),), ({"x": 2e-4}, {"x": 3e-5}, {"x": 0.004}))
    assert [row[0] for row in table.cells()] == ["2.00×10⁻⁴", "3.00×10⁻⁵", "4.00×10⁻³"]
