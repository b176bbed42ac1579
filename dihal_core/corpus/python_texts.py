"""Readers of text that every installation has: source code and reference documentation.

Nothing is imported: code is read as files, docstrings are taken out of the syntax tree.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dihal_core.corpus.documents import Document

NOT_CODE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings", "pydoc_data"}
"""Tests repeat the code they test; codecs and topics are tables."""
MIN_CODE_CHARACTERS = 400
MIN_DOCSTRING_CHARACTERS = 200

Read = tuple[list[Document], Counter[str]]


def read_code(library: Path | None = None) -> Read:
    """Return the modules of the running interpreter's standard library; a file is a group."""
    root = library or Path(sysconfig.get_path("stdlib"))
    documents, rejects = [], Counter[str]()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if NOT_CODE & set(name.parts[:-1]) or name.parts[0].startswith("config-"):
            continue
        found = _read_text(path)
        if found is None:
            rejects["unreadable_source"] += 1
        elif len(found[0]) < MIN_CODE_CHARACTERS:
            rejects["stub"] += 1
        else:
            documents.append(
                Document(
                    name.as_posix(), found[0], "code", metadata=_metadata(name.as_posix(), found[1], name.as_posix())
                )
            )
    return documents, rejects


def read_topics(library: Path | None = None) -> Read:
    """Return the chapters of the language reference that `help()` shows."""
    path = (library or Path(sysconfig.get_path("stdlib"))) / "pydoc_data" / "topics.py"
    found = _read_text(path) if path.is_file() else None
    if found is None:
        return [], Counter()
    documents = []
    for node in ast.walk(ast.parse(found[0])):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    metadata = _metadata(f"topic {key.value}", found[1], "pydoc_data/topics.py")
                    documents.append(Document(f"topic {key.value}", value.value.strip(), "docs", metadata=metadata))
    return documents, Counter()


def read_docstrings(package: str = "scipy") -> Read:
    """Return the docstrings of the public names of an installed package; a file is a group."""
    spec = find_spec(package)  # a top-level name is located, not imported
    if spec is None or not spec.submodule_search_locations:
        return [], Counter()
    root = Path(next(iter(spec.submodule_search_locations)))
    documents, rejects = [], Counter[str]()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root.parent).as_posix()
        found = None if "tests" in path.parts else _read_text(path)
        if found is None:
            continue
        for qualified, docstring in _docstrings(ast.parse(found[0]), name.removesuffix(".py").replace("/", ".")):
            if len(docstring) < MIN_DOCSTRING_CHARACTERS:
                rejects["stub"] += 1
            else:
                metadata = _metadata(qualified, found[1], name)
                documents.append(Document(qualified, f"{qualified}\n\n{docstring}", "docs", metadata=metadata))
    return documents, rejects


def _docstrings(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, docstring) of the node and of its public functions, classes and methods."""
    docstring = ast.get_docstring(tree, clean=False) if isinstance(tree, DOCUMENTED) else None  # type: ignore[arg-type]
    if docstring:
        yield prefix, inspect.cleandoc(docstring)
    for node in getattr(tree, "body", ()):
        if isinstance(node, DOCUMENTED) and not node.name.startswith("_"):  # type: ignore[union-attr]
            yield from _docstrings(node, f"{prefix}.{node.name}")  # type: ignore[union-attr]


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _metadata(title: str, sha256: str, file: str) -> dict[str, str]:
    return {"group": file if not title.startswith("topic ") else title, "title": title, "file": file, "sha256": sha256}


def _read_text(path: Path) -> tuple[str, str] | None:
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8").replace("\r\n", "\n"), hashlib.sha256(raw).hexdigest()
    except (OSError, UnicodeDecodeError):
        return None
