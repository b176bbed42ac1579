import json

from flows.cli import main


def test_a_plan_as_json_is_json(capsys, tmp_path):
    assert main(["plan", "--profile", "smoke", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["stage"] == "assets"
