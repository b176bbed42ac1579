"""What a stage's code is: the source of every core module its builder can reach.

The closure is found by reading import statements (also those inside functions), so nothing is
imported and no torch is loaded. Comments, docstrings and formatting do not count. `dihal_core.config`
and `dihal_core.errors` are left out: settings enter a key by value, messages change no number.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import threading
from pathlib import Path

from dihal_core.errors import ConfigError

PACKAGE = "dihal_core"
PARSE_ATTEMPTS = 20
_parsing = threading.Lock()
BY_VALUE = frozenset(
    {
        f"{PACKAGE}.{name}"
        for name in ("config", "contract", "errors", "progress", "remote", "stages", "profiles", "provenance", "store")
    }
)
"""Modules and packages that no key covers: their effect is in the key by value, or they change no number."""


def _root() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"package {PACKAGE!r} is not importable; install the project")
    return Path(next(iter(spec.submodule_search_locations)))


def _file_of(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]


def _parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file, also while other threads build theirs.

    CPython 3.11 counts the depth of all threads' trees in one place and calls a mismatch a SystemError; the tree
    itself is never wrong, so it is asked for again.
    """
    source = path.read_text(encoding="utf-8")
    for _ in range(PARSE_ATTEMPTS - 1):
        with _parsing, contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


@functools.cache
def _read(path: str, _mtime_ns: int) -> tuple[str, tuple[str, ...]]:
    """Return (hash of the normalised source, names imported from our package)."""
    tree = _parse(Path(path))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    _strip_docstrings(tree)
    ours = tuple(sorted(name for name in imported if name == PACKAGE or name.startswith(f"{PACKAGE}.")))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), ours


def code_closure(*entries: str, root: Path | None = None) -> dict[str, str]:
    """Return `{module: hash}` of every core module reachable from the modules `entries`, sorted.

    `root` is the folder of the package's source (default: where it is installed).
    """
    folder = root or _root()
    found: dict[str, str] = {}
    queue = list(entries)
    while queue:
        module = queue.pop()
        if module in found or any(module == name or module.startswith(f"{name}.") for name in BY_VALUE):
            continue
        path = _file_of(module, folder)
        if path is None:  # a name imported from a module (function, class), not a module
            continue
        digest, imported = _read(str(path), path.stat().st_mtime_ns)
        found[module] = digest
        queue.extend(imported)
    return dict(sorted(found.items()))


@functools.cache
def package_version(name: str) -> str:
    """Return the installed version of a distribution, or `absent`; imports nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
