"""Commands on finished stores: `dihal verify` and `dihal archive`. Parsing and messages only."""

import argparse
import dataclasses
import json
import os
from typing import Any


def register(commands: Any) -> None:
    """Add the commands to the parser of `dihal`."""
    verify = commands.add_parser(
        "verify", help="re-hash a store and recompute 0.1 %% of its hidden states with the model"
    )
    verify.add_argument(
        "store", nargs="?", metavar="STORE", help="folder, stage/key or part of it (default: the latest hidden states)"
    )
    verify.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
    verify.add_argument("--no-model", action="store_true", help="re-hash only")
    verify.add_argument("--seed", type=int, default=None, help="seed of the rows that are drawn (default: random)")
    verify.add_argument("--json", action="store_true", help="print JSON")

    archive = commands.add_parser("archive", help="write a losslessly compressed copy of hidden states")
    archive.add_argument("place", metavar="PLACE", help="folder or fsspec URL (s3://...) that receives KEY.zarr")
    archive.add_argument("--store", default=None, metavar="STORE", help="as for verify (default: the latest)")
    archive.add_argument("--codec", default="zstd", help="zstd, zstd-9, blosc-lz4, blosc-zstd, gzip or none")
    archive.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")


def verify(arguments: argparse.Namespace) -> int:
    """Check one store; what differs is an error, so 0 means that everything agreed."""
    from dihal_core.activations.audit import audit_store, find_store

    folder = find_store(_home(arguments), arguments.store)
    audit = audit_store(folder, not arguments.no_model, arguments.seed)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(audit), indent=1))
    else:
        print("\n".join(audit.lines()))
    return 0


def archive(arguments: argparse.Namespace) -> int:
    """Copy the hidden states of one store."""
    from dihal_core.activations.archive import archive_group, archive_place
    from dihal_core.activations.audit import find_store
    from dihal_core.activations.names import GROUP
    from dihal_core.errors import ConfigError

    folder = find_store(_home(arguments), arguments.store)
    if not (folder / GROUP).is_dir():
        raise ConfigError(f"store {folder} holds no hidden states; give a store of stage activations")
    place = archive_place(arguments.place, folder.name)
    print(archive_group(folder / GROUP, place, arguments.codec).sentence())
    return 0


def _home(arguments: argparse.Namespace) -> Any:
    from dihal_core.remote.link import home_uri
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    os.environ["DIHAL_HOME"] = home_uri(home)
    return home


COMMANDS = {"verify": verify, "archive": archive}
