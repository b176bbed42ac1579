import gzip
import json
import subprocess
import sys

import pytest

from flows.cli import main


def shard(path, good, bad=0):
    rows = [json.dumps({"id": f"d{n}", "text": "some text", "source": "web"}) for n in range(good)] + ["{broken"] * bad
    path.write_bytes(gzip.compress("\n".join(rows).encode() + b"\n"))
    return path


def test_a_healthy_shard_is_described_with_exit_code_0(tmp_path, capsys):
    assert main(["corpus", "inspect", str(shard(tmp_path / "a.json.gz", 200, 1))]) == 0
    printed = capsys.readouterr().out
    assert "200 documents in 201 lines of 1 files" in printed
    assert "rejected: bad_json 1 in a.json.gz at byte " in printed
    assert "healthy" in printed


def test_json_holds_ids_and_damage_gives_exit_code_1(tmp_path, capsys):
    shard(tmp_path / "a.json.gz", 20, 1)
    (tmp_path / "b.json.gz").write_bytes(b"")
    assert main(["corpus", "inspect", str(tmp_path), "--json", "--ids"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["ids"] == [f"d{n}" for n in range(20)]
    assert facts["problem"].startswith("1 of 21 lines are damaged")
    assert facts["damaged_shards"] == [{"path": "b.json.gz", "damage": "empty_file", "offset": 0, "documents": 0}]
    assert main(["corpus", "inspect", str(tmp_path), "--max-damaged", "0.1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corpus", "inspect", "/nowhere/at/all"], "'/nowhere/at/all' does not exist"),
        (["corpus", "inspect", "gopher2://x/y.gz"], "give a local folder, https://, s3://"),
        (["corpus"], "--help"),
        (["corpus", "inspekt", "x"], "--help"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(words, message, capsys):
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_odd_ids_and_names_print_everywhere(tmp_path, capsys):
    (tmp_path / "x\udcff.jsonl").write_bytes(json.dumps({"id": "a\u2028\x07é", "text": "t", "source": "s"}).encode())
    assert main(["corpus", "inspect", str(tmp_path), "--ids"]) == 0
    assert "a\\u2028\\x07\\xe9" in capsys.readouterr().out


def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path):
    path = shard(tmp_path / "a.json.gz", 20_000)
    command = f"{sys.executable} -m flows.cli corpus inspect --ids {path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(path))
    assert done.stderr == ""


def test_a_folder_that_is_mostly_lost_is_not_called_healthy(tmp_path, capsys):
    shard(tmp_path / "a.json.gz", 20)
    for name in ("b", "c"):
        (tmp_path / f"{name}.json.gz").write_bytes(b"<html>404</html>")
    assert main(["corpus", "inspect", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "accepted: the corpus stage would take what is readable, but 2 of 3 files are damaged" in printed
    assert "healthy" not in printed


@pytest.mark.parametrize("share", ["nan", "5", "-1", "much"])
def test_a_share_that_is_none_is_refused(tmp_path, capsys, share):
    assert main(["corpus", "inspect", str(shard(tmp_path / "a.json.gz", 2)), f"--max-damaged={share}"]) == 2
    assert "--max-damaged" in capsys.readouterr().err


def test_what_the_data_holds_cannot_command_the_terminal(tmp_path, capsys):
    row = json.dumps({"id": "a", "text": "t", "source": "s\x1b[2J"})
    (tmp_path / "x.jsonl").write_text(row)
    assert main(["corpus", "inspect", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "s\\x1b[2J 1" in printed


def test_an_empty_path_is_not_the_working_directory(capsys):
    assert main(["corpus", "inspect", ""]) == 2
    assert "an empty path was given" in capsys.readouterr().err
