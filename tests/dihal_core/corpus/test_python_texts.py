import hashlib
import sys

import pytest

from dihal_core.corpus.python_texts import read_code, read_docstrings, read_topics

CODE = "def harmless():\n    return 1\n" * 40


@pytest.fixture
def library(tmp_path):
    for name, text in {
        "good.py": CODE,
        "package/inner.py": CODE + "# inner\n",
        "stub.py": "x = 1\n",
        "test/test_good.py": CODE,
        "site-packages/other.py": CODE,
        "pydoc_data/topics.py": "topics = {'assert': 'The assert statement ...', 'break': 'The break statement ...'}",
    }.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "lib" / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n" + CODE.encode())
    return tmp_path / "lib"


def test_modules_are_documents_named_with_their_digest_and_tests_are_left_out(library):
    documents, rejects = read_code(library)
    assert [d.id for d in documents] == ["good.py", "package/inner.py"]
    assert documents[0].metadata["sha256"] == hashlib.sha256(CODE.encode()).hexdigest()
    assert rejects == {"stub": 1, "unreadable_source": 1}


def test_help_topics_are_read_without_importing_them(library):
    documents, _ = read_topics(library)
    assert [(d.id, d.text) for d in documents] == [
        ("topic assert", "The assert statement ..."),
        ("topic break", "The break statement ..."),
    ]
    assert len({d.group for d in documents}) == 2
    assert read_topics(library / "nowhere")[0] == []


def test_public_docstrings_are_read_without_importing_the_package(tmp_path, monkeypatch):
    long = "A description of what this does, with units. " * 6
    package = tmp_path / "dihal_sample_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tests" / "test_a.py").write_text(f'"""{long}"""')
    (package / "a.py").write_text(
        f'"""{long}"""\ndef short():\n    """Brief."""\ndef public():\n    """{long}\n\n    Indented.\n    """\n'
        f'def _private():\n    """{long}"""\nclass Thing:\n    def method(self):\n        """{long}"""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    documents, rejects = read_docstrings("dihal_sample_package")
    prefix = "dihal_sample_package.a"
    assert [d.id for d in documents] == [prefix, f"{prefix}.public", f"{prefix}.Thing.method"]
    assert documents[1].text.endswith("\n\nIndented.")
    assert {d.group for d in documents} == {"dihal_sample_package/a.py"}
    assert rejects == {"stub": 1}
    assert "dihal_sample_package" not in sys.modules


def test_an_absent_package_gives_nothing():
    assert read_docstrings("dihal_no_such_package") == ([], {})


def test_the_running_interpreter_has_readable_code():
    documents, _ = read_code()
    assert len(documents) > 100
    assert not any("test" in d.id.split("/")[:-1] for d in documents)
