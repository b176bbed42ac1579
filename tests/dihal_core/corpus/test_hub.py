import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dihal_core.corpus.hub import explained
from dihal_core.corpus.windows import load_windows
from dihal_core.errors import AssetError, ConfigError, NetworkError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.runner import ensure
from dihal_core.seeding import stream

WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra") for b in range(300)]


def texts(name, count):
    draws = stream(0, "hub", name)
    return [" ".join(draws.choice(WORDS, 70)) for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    for number in range(3):
        columns = {"body": [*texts(number, 60), "", None], "url": [f"page-{number}-{n}" for n in range(62)]}
        pq.write_table(pa.table(columns), folder / f"train-{number:05d}-of-00003.parquet")
    return folder


def build(home, workers=1, **overrides):
    values = {
        "kind": "huggingface",
        "num_sequences": 100,
        "num_heldout": 8,
        "num_eval_wiki": 0,
        "heldout_permille": 100,
        **overrides,
    }
    values = {f"corpus.{name}": value for name, value in values.items()}
    settings = load_study("smoke", overrides={**values, "compute.corpus_workers": workers})
    return ensure(make_request("corpus", settings, {"assets": {}}, home))


def parquet_settings(folder, **overrides):
    return {
        "huggingface.dataset": "parquet",
        "huggingface.data_files": [str(folder / "*.parquet")],
        "huggingface.text_field": "body",
        "max_damaged_fraction": 0.05,
        **overrides,
    }


def facts_of(record):
    return json.loads((record.path / "corpus.json").read_bytes())


def test_parquet_files_give_windows_by_any_number_of_workers(parquet, tmp_path):
    records = [build(tmp_path / str(w), workers=w, **parquet_settings(parquet)) for w in (1, 4)]
    assert records[0].digest == records[1].digest
    facts = facts_of(records[0])
    assert [shard["name"] for shard in facts["shards"]] != []
    assert sum(shard["accepted"] for shard in facts["shards"]) == 180
    assert sum(shard["lines"] for shard in facts["shards"]) == 186
    assert facts["rejects"]["body_not_a_string"] == facts["rejects"]["empty_text"] == 3
    assert len(load_windows(records[0], "train")) == 100
    assert str(parquet) not in (records[0].path / "corpus.json").read_text()


def test_only_the_chosen_files_and_their_first_rows_are_read(parquet, tmp_path):
    few = {"shards_per_source": 2, "huggingface.rows_per_shard": 50, "num_sequences": 64}
    facts = facts_of(build(tmp_path, **parquet_settings(parquet, **few)))
    assert [shard["lines"] for shard in facts["shards"]] == [50, 50]
    assert all(shard["cut"] for shard in facts["shards"])


def test_documents_are_named_by_their_column_or_by_their_row(parquet, tmp_path):
    by_row = build(tmp_path / "row", **parquet_settings(parquet))
    by_id = build(tmp_path / "id", **parquet_settings(parquet, **{"huggingface.id_field": "url"}))
    assert by_row.digest != by_id.digest
    assert len(load_windows(by_id, "train")) == 100


def test_json_and_text_files_are_read_too(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts("json", 150)))
    (tmp_path / "rows.txt").write_text("\n".join(texts("text", 150)))
    for dataset, name in (("json", "rows.jsonl"), ("text", "rows.txt")):
        chosen = {"huggingface.dataset": dataset, "huggingface.data_files": [str(tmp_path / name)]}
        assert len(load_windows(build(tmp_path / dataset, **chosen), "train")) == 100


def test_lines_of_wikitext_are_rejoined_when_asked_for(tmp_path):
    rows = []
    for number, text in enumerate(texts("lines", 120)):
        rows += ["", f" = Page {number} = \n", "", text, "", " = = Section = = \n", "", "more"]
    pq.write_table(pa.table({"text": rows}), tmp_path / "train.parquet")
    chosen = {
        "huggingface.dataset": "parquet",
        "huggingface.data_files": [str(tmp_path / "train.parquet")],
        "huggingface.layout": "wikitext_lines",
        "num_sequences": 60,
    }
    facts = facts_of(build(tmp_path / "home", **chosen))
    assert [shard["accepted"] for shard in facts["shards"]] == [120]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"huggingface.text_field": "text"}, ConfigError, "has no column 'text'; its columns are body, url"),
        ({"huggingface.data_files": ["/nowhere/*.parquet"]}, AssetError, "check corpus.huggingface.dataset"),
    ],
)
def test_a_wrong_request_says_what_there_is(parquet, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        build(tmp_path, **{**parquet_settings(parquet), **change})


def test_rows_without_text_are_damage_and_named_by_row(parquet, tmp_path):
    with pytest.raises(AssetError, match=r"3 of 186 lines are damaged .*body_not_a_string 1 \(first at row 61\)"):
        build(tmp_path, **parquet_settings(parquet, max_damaged_fraction=0.01))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises((AssetError, ConfigError), match=r"parquet \(train\)"):
        build(tmp_path / "home", **parquet_settings(tmp_path))


def test_the_kind_needs_a_name():
    with pytest.raises(ConfigError, match=r"set corpus\.huggingface\.dataset"):
        load_study("smoke", overrides={"corpus.kind": "huggingface"})


def test_errors_of_the_library_become_ours():
    assert isinstance(explained(ConnectionError("no route"), "x"), NetworkError)
    assert isinstance(explained(TimeoutError(), "x"), NetworkError)
    assert isinstance(explained(FileNotFoundError("x"), "x"), AssetError)
    assert isinstance(explained(ValueError("BuilderConfig 'y' not found"), "x"), ConfigError)
    assert isinstance(explained(ValueError("bad page"), "x", reading=True), AssetError)
