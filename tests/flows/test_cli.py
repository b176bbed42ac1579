import socket
from contextlib import closing

import pytest

from dihal_core.errors import ConfigError, ResourceError
from flows import server
from flows.cli import COMMANDS, main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stduy"], "unknown command 'stduy' (did you mean 'study'?)"),
        (["study", "--profil", "smoke"], "--profil"),
        (["study", "--profile", "smokee"], "did you mean 'smoke'"),
        (["plan", "--backbone", "smollm"], "unknown backbone 'smollm'"),
        (["plan", "--set", "geometry.kk=3"], "did you mean 'geometry.k'"),
        (["plan", "--set", "geometry.k=many"], "geometry.k = 'many'"),
        (["plan", "--set", "replace.layer=99"], "outside 1..29"),
        (["plan", "--home", "s3://key:word@bucket"], "before '@'"),  # pragma: allowlist secret
        (["study", "--profile", "smoke", "--force", "swep"], "did you mean 'sweep'"),
        (["up"], "run this from the project folder"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert "usage: dihal" in capsys.readouterr().out


def test_a_taken_port_gives_the_next_free_one():
    with closing(socket.socket()) as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < server.free_port(port) < port + server.PORTS_TRIED


def test_no_free_port_is_a_sentence():
    with closing(socket.socket()) as taken:
        taken.bind((server.HOST, 65535))
        taken.listen()
        with pytest.raises(ResourceError, match="are all in use"):
            server.free_port(65535)
    with pytest.raises(ConfigError, match="outside 1..65535"):
        server.free_port(70_000)


def test_nothing_runs_in_an_empty_home(tmp_path):
    assert server.running_url(tmp_path) is None
    said: list[str] = []
    server.stop_all(tmp_path, said.append)
    assert said == ["worker: not running", "server: not running"]


def test_every_prefect_process_keeps_its_state_in_the_home_and_sends_no_telemetry(tmp_path):
    variables = server.prefect_environment(tmp_path, "http://127.0.0.1:4200/api")
    assert variables["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert variables["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert server.HOST == "127.0.0.1"
