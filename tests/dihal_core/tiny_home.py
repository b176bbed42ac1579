"""A home with tiny stores of which a study needs some, for the tests of what is needed and of what is removed."""

import hashlib
import json
from pathlib import Path

from dihal_core.inspection import inspect_store
from dihal_core.store import StageStore


def key(name: str) -> str:
    """A key as stages have it: 24 hexadecimal digits, behind the unit if there is one."""
    unit, _, rest = name.rpartition("-")
    return f"{unit}-{key(rest)}" if unit else hashlib.sha256(name.encode()).hexdigest()[:24]


def make(home: Path, stage: str, name: str, inputs: dict | None = None, files: dict | None = None):
    """A finished store whose manifest names the stores it was made from, as `runner.ensure` writes it."""
    store = StageStore(home, stage, key(name))
    for file, data in (files or {"data.bin": f"{stage}/{name}".encode()}).items():
        store.write_bytes(file, data)
    document = {stage: {"": record.digest} for stage, record in (inputs or {}).items()}
    return store.finalize({}, {"request": {"inputs": document}}, None)


def publish(home: Path, name: str, records, where: str = "study.json") -> None:
    path = home / "studies" / name / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"records": [{"stage": r.stage, "key": r.key} for r in records]}))


def fill(home: Path) -> None:
    """Two corpora with what follows from each; a study refers to the score of the first."""
    corpus, other = make(home, "corpus", "c1"), make(home, "corpus", "c2")
    dump = make(home, "activations", "a1", {"corpus": corpus})
    make(home, "activations", "a2", {"corpus": other})
    rows = make(home, "geometry", "L01-g1", {"activations": dump})
    publish(home, "first", [make(home, "score", "s1", {"geometry": rows})])
    make(home, "geometry", "L01-nobody", {"activations": dump})


def found_in(home: Path, stage: str, name: str):
    return inspect_store(home, stage, key(name)).record


def stores(*names: str) -> set[str]:
    """`stage/key` of `stage/name`."""
    return {f"{stage}/{key(name)}" for stage, name in (text.split("/") for text in names)}


NEEDED = stores("score/s1", "geometry/L01-g1", "activations/a1", "corpus/c1")
UNUSED = stores("corpus/c2", "activations/a2", "geometry/L01-nobody")
