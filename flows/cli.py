"""The `dihal` command. Parsing and messages only; Prefect and torch are imported when a command needs them."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dihal_core.errors import ConfigError, DihalError, nearest
from flows import (
    cli_ablate,
    cli_corpus,
    cli_flows,
    cli_gc,
    cli_generate,
    cli_remote,
    cli_schedules,
    cli_status,
    cli_store,
    cli_study,
)
from flows.cli_geometry import add_geometry_arguments, run_geometry
from flows.cli_study import home_of, study_arguments


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence with the nearest valid name."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message}; `{self.prog} --help` lists what is accepted")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the `dihal` command."""
    parser = _Parser(prog="dihal", description="Where should diffusion enter a language model? A reproducible study.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    cli_study.register(commands)
    cli_corpus.add_arguments(commands, _Parser)
    add_geometry_arguments(commands)

    up = commands.add_parser("up", help="start a local Prefect server and worker and deploy everything")
    up.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
    up.add_argument("--port", type=int, default=None, help="port of the server (default: 4200)")
    up.add_argument(
        "--schedules",
        nargs="*",
        default=None,
        metavar="NAME",
        help="schedules that run from now on, all others stop (default: leave them as they are)",
    )
    up.add_argument("--gpus", type=int, default=None, help="GPUs that studies may use (default: all this machine has)")

    down = commands.add_parser("down", help="stop the local Prefect server and worker")
    down.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")

    report = commands.add_parser("report", help="print the answer of the latest study and where its report is")
    report.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
    report.add_argument("--json", action="store_true", help="print study.json")

    cli_store.register(commands)
    cli_gc.register(commands)
    cli_remote.register(commands)
    cli_generate.add_parsers(commands)
    cli_ablate.add_parser(commands, study_arguments)
    cli_flows.register(commands, study_arguments)
    cli_status.register(commands)
    cli_schedules.register(commands)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    from flows import automations, console, server

    home, project = home_of(arguments), Path.cwd()
    if not (project / server.PREFECT_FILE).is_file():
        raise ConfigError(f"no {server.PREFECT_FILE} under {project}; run this from the project folder")
    url = server.ensure_server(home, console.say, arguments.port)
    server.write_prefect_toml(home, url, project)
    os.environ.update(server.prefect_environment(home, url))
    from flows import operating  # Prefect's client: seconds to import

    gpus = operating.chosen_gpus(arguments.gpus)
    server.ensure_worker(home, url, console.say, gpus)
    # neither a file with a mistake nor a misspelt --schedules may stop what runs every night
    with operating.keep_schedules(url, console.say) as before:
        server.deploy(home, url, project, console.say)
    automations.apply_automations(url, project, console.say)
    operating.operate(home, url, arguments.schedules, before, gpus, console.say)
    console.say(f"Prefect UI: {url.removesuffix('/api')}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from flows import console, server

    server.stop_all(home_of(arguments), console.say, Path.cwd())
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from dihal_core.remote.link import pull_studies

    home = home_of(arguments)
    pull_studies(home)
    found = sorted((home / "studies").glob("*/study.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"no finished study under {home / 'studies'}; run `dihal study` first")
    if arguments.json:
        print(found[-1].read_text(encoding="utf-8"))
        return 0
    result = json.loads(found[-1].read_bytes())
    for line in [*result["answer"]["lines"], *([result["difference"]["line"]] if result.get("difference") else [])]:
        print(line)
    print(f"report: {found[-1].with_name('report.html')}")
    return 0


COMMANDS = {
    **cli_study.COMMANDS,
    "corpus": cli_corpus.run,
    "geometry": run_geometry,
    "up": _up,
    "down": _down,
    "report": _report,
    **cli_store.COMMANDS,
    **cli_gc.COMMANDS,
    **cli_remote.COMMANDS,
    **cli_generate.COMMANDS,
    **cli_ablate.COMMANDS,
    **cli_flows.COMMANDS,
    **cli_status.COMMANDS,
    **cli_schedules.COMMANDS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; explained errors become one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and not words[0].startswith("-") and words[0] not in COMMANDS:
            raise ConfigError(
                f"unknown command {words[0]!r}{nearest(words[0], COMMANDS)}; choose one of {', '.join(COMMANDS)}"
            )
        parser = build_parser()
        arguments = parser.parse_args(words)
        if arguments.command is None:
            parser.print_help()
            return 2
        return COMMANDS[arguments.command](arguments)
    except DihalError as error:
        print(f"dihal: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f" at {error.filename}" if error.filename else ""
        print(
            f"dihal: {type(error).__name__}: {error.strerror or error}{place}; check DIHAL_HOME, its permissions and "
            "its disk, then run the same command again",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("dihal: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
