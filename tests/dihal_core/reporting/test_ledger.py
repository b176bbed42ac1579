from dihal_core.reporting.ledger import code_of, ledger_json, ledger_rows, ledger_table, store_table, versions_of
from dihal_core.reporting.results import load_results


def test_work_is_summed_over_units_in_the_order_of_the_pipeline(data, context_for):
    results = load_results(context_for(data))
    rows = {row["stage"]: row for row in ledger_rows(results)}
    assert list(rows) == [
        "corpus", "gates", "activations", "geometry", "score", "sweep", "agreement", "replace", "evaluate", "cost",
    ]  # fmt: skip
    assert (rows["sweep"]["units"], rows["sweep"]["seconds"], rows["sweep"]["tokens"]) == (28, 350.0, 28_000)
    assert rows["sweep"]["tokens_per_second"] == 80.0
    expected = sum(f.stat().st_size for r in results.records if r.stage == "score" for f in r.path.glob("score.json"))
    assert rows["score"]["bytes"] == expected
    total = ledger_table(results).rows[-1]
    assert total["seconds"] == sum(row["seconds"] for row in rows.values())


def test_tokens_come_from_the_results_where_a_record_has_none(data, context_for):
    context = context_for(data)
    for value in context.inputs.values():
        for record in value.values() if isinstance(value, dict) else [value]:
            record.counts.pop("tokens")
    rows = {row["stage"]: row["tokens"] for row in ledger_rows(load_results(context))}
    assert rows["corpus"] == 726_000 + 19_200 + 19_337
    assert rows["activations"] == 242_000
    regressors = sum(block["arms"]["regressor"] is not None for block in data["sweep"].values())
    assert rows["sweep"] == 24_192 * (28 + regressors)
    assert rows["replace"] == 2 * 302_400
    assert rows["score"] is None


def test_stores_are_named_relative_to_the_home(data, context_for, tmp_path):
    rows = store_table(load_results(context_for(data))).rows
    assert all(str(tmp_path) not in str(row) for row in rows)
    assert rows[0]["location"] == f"corpus/{'0' * 24}"
    assert rows[0]["counts"] == "rows 7, tokens 1000"
    assert len(rows[0]["digest"]) == 64


def test_versions_and_code_come_from_the_manifests(data, context_for):
    results = load_results(context_for(data))
    assert versions_of(results)["numpy"] == "2.3.0"
    assert code_of(results)["score"] == {"dihal_core.score": "ab" * 32}


def test_the_ledger_survives_records_without_seconds_or_manifest(data, context_for):
    context = context_for({"corpus": data["corpus"]})
    record = context.inputs["corpus"]
    (record.path / "manifest.json").unlink()
    record.counts.clear()
    (row,) = ledger_rows(load_results(context))
    assert row == {
        "stage": "corpus", "units": 1, "seconds": None, "longest_seconds": None, "tokens": 764_537,
        "tokens_per_second": None, "bytes": None,
    }  # fmt: skip


def test_ledger_json_lists_every_unit(data, context_for):
    ledger = ledger_json(load_results(context_for(data)))
    assert len(ledger["units"]) == len(load_results(context_for(data)).records)
