"""What our own source may not contain: pickles, evaluated text, shells, servers open to the network."""

import ast
from pathlib import Path

import pytest

from flows import locate, server, study
from tasks.stages import TASKS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for package in ("flows", "tasks", "dihal_core") for path in (ROOT / package).rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"}
FORBIDDEN_CALLS |= {"yaml.load", "yaml.unsafe_load", "pd.read_pickle", "pandas.read_pickle", "tarfile.extractall"}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def findings(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called(node) in FORBIDDEN_CALLS or given.get("shell") == "True" or given.get("verify") == "False":
                found.append(ast.unparse(node))
            if called(node) in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                found.append(ast.unparse(node))
            if given.get("trust_remote_code") == "True" or given.get("weights_only") == "False":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_unpickles_evaluates_or_opens_a_shell(path):
    assert findings(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_search_itself_finds_what_it_looks_for():
    bad = "import pickle\nx = np.load(f)\nsubprocess.run(c, shell=True)\neval(s)\nload(m, trust_remote_code=True)\n"
    assert len(findings(ast.parse(bad))) == 5


def test_results_of_flows_and_tasks_are_json():
    for item in (study.full_study, locate.locate, *TASKS.values()):
        assert item.result_serializer == "json", item.name
    assert server.prefect_environment(ROOT)["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


def test_the_server_listens_on_loopback():
    assert server.HOST == "127.0.0.1"
    assert not [path for path in SOURCES if "0.0.0.0" in path.read_text(encoding="utf-8")]


def test_no_leftover_of_a_merge_lies_among_the_sources():
    assert [
        path for package in ("flows", "tasks", "dihal_core") for path in (ROOT / package).rglob("*.[or][re][ij]*")
    ] == []
