import ast
import gc
import itertools
import os
import subprocess
import sys

from dihal_core.provenance import BY_VALUE, code_closure
from dihal_core.stages import STAGES


def closure_of(stage: str) -> set[str]:
    return set(code_closure(STAGES[stage].builder.partition(":")[0]))


def test_every_builder_is_in_its_own_closure_and_can_be_found():
    for name, stage in STAGES.items():
        module = stage.builder.partition(":")[0]
        assert module in closure_of(name)


def test_a_figure_is_in_the_closure_of_the_pages_alone():
    formatting = {"dihal_core.reporting.formatting"}  # numbers on the model card of stage hybrid, which trains nothing
    owners = {
        name
        for name in STAGES
        if any(
            m.startswith("dihal_core.reporting") for m in closure_of(name) - (formatting if name == "hybrid" else set())
        )
    }
    assert owners == {"report", "locate", "ablation"}


def test_bridge_code_is_in_the_sweep_closure_and_not_in_that_of_the_dump():
    assert any(m.startswith("dihal_core.bridges") for m in closure_of("sweep"))
    assert not any(m.startswith("dihal_core.bridges") for m in closure_of("activations"))
    assert not any(m.startswith(("dihal_core.training", "dihal_core.bridges")) for m in closure_of("geometry"))


def test_settings_and_messages_are_covered_by_value_and_not_by_source():
    for name in STAGES:
        assert not closure_of(name) & BY_VALUE


def test_comments_and_docstrings_do_not_change_a_hash_and_code_does(tmp_path):
    package = tmp_path / "dihal_core"
    package.mkdir()
    (package / "__init__.py").write_text("")

    ticks = itertools.count(1)

    def digest(text: str) -> str:
        (package / "thing.py").write_text(text)
        os.utime(package / "thing.py", ns=(0, next(ticks)))
        return code_closure("dihal_core.thing", root=package)["dihal_core.thing"]

    plain = digest('def f(x):\n    """Say."""\n    return x + 1\n')
    assert digest('def f(x):\n    """Say more."""\n    # why\n    return (x + 1)\n') == plain
    assert digest("def f(x):\n    return x + 2\n") != plain


def test_imports_inside_functions_are_followed(tmp_path):
    package = tmp_path / "dihal_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("def f():\n    from dihal_core.b import g\n    return g\n")
    (package / "b.py").write_text("def g():\n    return 1\n")
    assert "dihal_core.b" in code_closure("dihal_core.a", root=package)


def test_keys_are_computed_without_importing_torch():
    code = (
        "import sys\nfrom dihal_core.stages import STAGES\nfrom dihal_core.provenance import code_closure\n"
        "[code_closure(s.builder.partition(':')[0]) for s in STAGES.values()]\n"
        "import dihal_core.study, dihal_core.planning, dihal_core.doctor\n"
        "bad = [m for m in ('torch', 'transformers', 'prefect') if m in sys.modules]\n"
        "sys.exit(', '.join(bad) or 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


def test_settings_enter_a_key_by_value_and_not_by_the_modules_that_declare_them():
    for name in STAGES:
        assert not [module for module in closure_of(name) if module.startswith("dihal_core.config")]


def test_the_closure_is_found_although_another_tree_is_built_in_between(tmp_path):
    """CPython 3.11 counts the depths of all trees in one place (seen in a study that was retried)."""
    package = tmp_path / "dihal_core"
    package.mkdir()
    (package / "m0.py").write_text(f"x = {'(' * 60}1{')' * 60}\n" * 50)
    began = []

    class Litter:
        """Garbage whose end, at any allocation, builds a tree: as a finalizer or another thread may."""

        def __init__(self):
            self.me = self

        def __del__(self):
            began.append(ast.parse("1"))
            if len(began) < 500:
                Litter()

    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1, 1, 1)
    try:
        Litter()
        assert list(code_closure("dihal_core.m0", root=package)) == ["dihal_core.m0"]
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert began
