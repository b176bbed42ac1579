"""`dihal corpus inspect PATH`: what is in a file or folder of shards, before any model is loaded."""

import argparse
import json
import sys
from typing import Any

HEALTHY, DAMAGED = 0, 1
"""Exit codes; a path that does not exist is a wrong request and gives 2, as everywhere."""
DESCRIPTION = (
    "Read a file, a folder of shards or an fsspec URL as the corpus stage would, and print the documents accepted, "
    "rejects by reason with path and byte offset (of the decompressed text), and damaged shards. Exit code: 0 the shards "
    "are healthy; 1 more lines are damaged than --max-damaged, or no document could be read; 2 there is no such path."
)


def add_arguments(commands: Any, parser_class: type[argparse.ArgumentParser]) -> None:
    """Add `corpus` with its actions to the `dihal` parser."""
    corpus = commands.add_parser("corpus", help="look into shards of text without a model")
    actions = corpus.add_subparsers(dest="action", metavar="ACTION", parser_class=parser_class, required=True)
    inspect = actions.add_parser("inspect", help="count documents, rejects and damaged shards", description=DESCRIPTION)
    inspect.add_argument("path", metavar="PATH", help="file, folder or fsspec URL of shards in Dolma's format")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--ids", action="store_true", help="print the id of every accepted document")
    inspect.add_argument(
        "--max-damaged",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="share of damaged lines allowed (default: 0.01)",
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:  # NaN fails too
        raise argparse.ArgumentTypeError(f"{text} is no share; give a number from 0 to 1")
    return value


def _printable(text: str) -> str:
    """Escape what a terminal would obey: names and sources come from the data."""
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


def run(arguments: argparse.Namespace) -> int:
    """Run `dihal corpus inspect`."""
    from dihal_core.corpus.inspect import format_inspection, inspect_path

    shown = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if shown and total > 1:
            print(f"\r{done}/{total} files", end="\n" if done == total else "", file=sys.stderr, flush=True)

    found = inspect_path(arguments.path, arguments.ids, arguments.max_damaged, progress)
    text = json.dumps(found.to_json(), indent=1) if arguments.json else _printable(format_inspection(found))
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return HEALTHY if found.problem is None else DAMAGED
