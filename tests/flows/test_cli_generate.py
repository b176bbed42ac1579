"""`dihal generate` and `dihal export`: wrong requests are one sentence, before torch is imported."""

import json

import pytest

from flows.cli import main


@pytest.fixture
def study(tmp_path):
    """A home with one finished study that exported nothing."""
    folder = tmp_path / "runs" / "studies" / "smoke-tiny-s0"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"records": []}))
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "PROMPT"),
        (["generate", "x"], "no finished study under"),
        (["export", "--to", "y"], "no finished study under"),
        (["export"], "--to"),
        (["generate", "x", "--model", "nowhere"], "there is no folder 'nowhere'"),
        (["generate", "x", "--model", "a", "--study", "b"], "not allowed with argument"),
        (["generate", "x", "--model", "a", "--layer", "3"], "--layer 3 chooses a bridge of a study"),
        (["generate", "x", "--layer", "three"], "invalid int value: 'three'"),
        (["generate", "x", "--temprature", "1"], "--temprature"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(words, message, capsys, tmp_path):
    home = [] if "--to" not in words and words == ["export"] else ["--home", str(tmp_path / "empty")]
    assert main([*words, *home]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_study_of_another_name_and_one_without_a_hybrid_are_named(study, capsys):
    assert main(["generate", "x", "--home", str(study), "--study", "smoke-tiny"]) == 2
    assert "did you mean 'smoke-tiny-s0'" in capsys.readouterr().err
    assert main(["generate", "x", "--home", str(study)]) == 2
    assert "has exported no hybrid" in capsys.readouterr().err
    assert main(["generate", "x", "--home", str(study), "--layer", "2"]) == 2
    assert "study.json is unreadable" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_not_written_to(study, capsys, tmp_path):
    hybrid = study / "studies" / "smoke-tiny-s0" / "hybrid"
    hybrid.mkdir()
    (hybrid / "config.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    assert main(["export", "--home", str(study), "--to", str(tmp_path / "full")]) == 2
    assert "is there already and not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "full" / "file").read_text() == "kept"
