"""`dihal leftovers`: what killed uploads left on a home on an object store. Parsing and messages only."""

import argparse
from typing import Any

from dihal_core.errors import ConfigError


def register(commands: Any) -> None:
    """Add the command to the parser of `dihal`."""
    parser = commands.add_parser("leftovers", help="list (or remove) objects that killed uploads left on a remote home")
    parser.add_argument("--home", default=None, help="address of the home (default: $DIHAL_HOME)")
    parser.add_argument("--hours", type=float, default=24.0, help="spare what is younger than this (default: 24)")
    parser.add_argument("--remove", action="store_true", help="delete them; without it they are only listed")


def run(arguments: argparse.Namespace) -> int:
    """List objects that no manifest names; delete them if asked."""
    from dihal_core.remote.address import remote_address
    from dihal_core.remote.garbage import leftovers, remove
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    address = remote_address(home)
    if address is None:
        raise ConfigError(f"{home} is a folder on this machine; give --home s3://bucket/prefix or another address")
    if not arguments.hours > 0:
        raise ConfigError(f"--hours {arguments.hours:g} would take uploads that are under way; give a number above 0")
    found = leftovers(address, arguments.hours * 3600)
    for item in found:
        print(f"{item.bytes / 1e6:10.1f} MB  {len(item.objects):6d} objects  {address}/{item.name}")
    total = sum(item.bytes for item in found)
    if arguments.remove:
        remove(address, found)
    print(
        f"{len(found)} leftovers, {total / 1e6:.1f} MB, older than {arguments.hours:g} hours"
        + ("; removed" if arguments.remove else "; --remove deletes them" if found else "")
    )
    return 0


COMMANDS = {"leftovers": run}
