import socket

import pytest

from dihal_core.corpus.costs import corpus_plan, describe_reading, reading_cost
from dihal_core.corpus.shards import FOLDERS, folder_quotas
from dihal_core.profiles import load_study
from dihal_core.units import human_bytes
from flows.cli import main


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the plan reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_plan_of_300k_windows_prints_without_a_network(no_network, tmp_path, capsys):
    assert main(["plan", "--profile", "paper-qwen3-8b", "--home", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    shards = len(corpus_plan(load_study("paper-qwen3-8b")).shards)
    assert f"Dolma v1.7, https://olmo-data.org/dolma-v1_7: the first 16.8 MB of {shards} shards" in printed
    assert f"at most {human_bytes(shards * 16 * 2**20)} to download" in printed
    assert "minutes of download at 50 MB/s" in printed
    for name in FOLDERS:
        assert f"  {name} " in printed
    assert sum(folder_quotas(300_000).values()) == 300_000
    assert f"starcoder {' ' * 20} {folder_quotas(300_000)['starcoder']:>8}" in printed


def test_the_download_is_the_number_of_shards_times_the_prefix():
    settings = load_study("paper-qwen3-8b")
    cost = reading_cost(settings)
    assert cost["download"] == len(corpus_plan(settings).shards) * 16 * 2**20
    assert 1.5e9 < cost["download"] < 2.6e9
    faster = load_study("paper-qwen3-8b", overrides={"compute.corpus_workers": 8})
    assert reading_cost(faster)["seconds"] < cost["seconds"]


def test_a_local_mirror_downloads_nothing_and_packaged_text_needs_no_plan(tmp_path):
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki" / "wiki-0000.json.gz").write_bytes(b"")
    local = load_study("paper-qwen3-8b", overrides={"corpus.base_url": str(tmp_path)})
    assert reading_cost(local)["download"] == 0
    assert any("to read from disk" in line for line in describe_reading(local))
    quickstart = load_study("quickstart")
    assert describe_reading(quickstart) == []
    assert reading_cost(quickstart) == {"download": 0, "spool": 0, "seconds": 0}


def test_what_cannot_be_known_before_listing_is_said(no_network):
    for overrides in (
        {"corpus.kind": "folder", "corpus.base_url": "s3://bucket/shards"},
        {"corpus.kind": "huggingface", "corpus.huggingface.dataset": "org/name"},
    ):
        (line,) = describe_reading(load_study("smoke", overrides=overrides))
        assert "only known once it is listed" in line
