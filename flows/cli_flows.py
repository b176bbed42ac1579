"""Commands for single parts of a study: sweep, replace, evaluate, compare, sensitivity, watch. Parsing and messages only."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def register(commands: Any, study_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the parser of `dihal`; `study_arguments` adds those that choose a study's settings."""

    def running(name: str, text: str, settings: bool = True) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text)
        if settings:
            study_arguments(parser)
        else:
            parser.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")
        parser.add_argument("--port", type=int, default=None, help="port of the local Prefect server (default: 4200)")
        return parser

    force = {"nargs": "+", "default": [], "metavar": "STAGE", "help": "run these stages again although cached"}
    running("sweep", "train one bridge per layer and compare with the score").add_argument("--force", **force)
    replace = running("replace", "train the replacement at one layer and export the hybrid")
    replace.add_argument(
        "--layer", type=int, default=None, help="block to replace (default: the one the score selects)"
    )
    replace.add_argument("--force", **force)
    sensitivity = running("sensitivity", "score every layer under choices the paper leaves open")
    sensitivity.add_argument(
        "--choices", nargs="+", default=None, metavar="NAME", help="all, or names (default: all on one dump)"
    )
    sensitivity.add_argument("--force", **force)

    evaluate = running("evaluate", "evaluate the hybrid of a finished study", settings=False)
    evaluate.add_argument("study", nargs="?", default=None, help="folder under studies/ (default: the last one)")
    evaluate.add_argument(
        "--set",
        dest="assignments",
        nargs="+",
        action="extend",
        default=[],
        metavar="evaluation.a=b",
        help="override settings",
    )
    evaluate.add_argument("--force", **force)
    compare = running("compare", "finished studies side by side", settings=False)
    compare.add_argument("studies", nargs="*", metavar="STUDY", help="folders under studies/ (default: all)")
    watch = running("watch", "look once whether watched hub models changed, and start studies of those that did", False)
    watch.add_argument("backbones", nargs="*", metavar="BACKBONE", help="presets (default: all that come from the hub)")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the flows of this module and print its answer; 3 if layers are missing."""
    from dihal_core.stages import check_stages
    from dihal_core.store import resolve_home
    from flows import console

    check_stages(getattr(arguments, "force", ()))
    home = resolve_home(arguments.home)
    os.environ["DIHAL_HOME"] = str(home)
    parameters = _checked(arguments, home)
    url = console.connect(home, arguments.port)
    flow = _flow(arguments.command)
    console.show_logs()  # after the import of Prefect, whose own lines it leaves to the UI
    result = flow(**parameters)
    for line in result["answer"]:
        print(line)
    print(f"\nresult: {result['report']}\nUI:     {url.removesuffix('/api')}")
    for layer, message in result["failed_layers"].items():
        print(f"MISSING {layer}: {message}; run the same command again to fill the gap")
    return 3 if result["failed_layers"] else 0


def _checked(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Return the flow's parameters; what is wrong with them is said before a server is started."""
    from dihal_core.profiles import load_study, parse_assignment

    name = arguments.command
    force = getattr(arguments, "force", None) or None
    if name == "watch":
        from dihal_core.watching import watched

        watched(arguments.backbones or None)
        return {"backbones": arguments.backbones or None}
    if name == "compare":
        from dihal_core.comparing import compare_studies

        compare_studies(home, arguments.studies or None)
        return {"studies": arguments.studies or None}
    overrides = dict(parse_assignment(text) for text in arguments.assignments)
    if name == "evaluate":
        from dihal_core.finished import evaluable

        evaluable(home, arguments.study, overrides)
        return {"study": arguments.study, "overrides": overrides or None, "force": force}
    given = {"replace.layer": arguments.layer} if name == "replace" and arguments.layer is not None else {}
    settings = load_study(arguments.profile, arguments.backbone, arguments.seed, {**overrides, **given})
    parameters = {
        "backbone": arguments.backbone,
        "profile": arguments.profile,
        "seed": arguments.seed,
        "overrides": overrides or None,
        "force": force,
    }
    if name == "replace":
        parameters["layer"] = arguments.layer
    if name == "sensitivity":
        from dihal_core.sensitivity import resolve_choices

        resolve_choices(settings, arguments.choices)
        parameters["choices"] = arguments.choices
    return parameters


def _flow(name: str) -> Callable[..., Any]:
    """Import one flow: Prefect takes seconds to import, so only the one that runs."""
    if name == "sweep":
        from flows.sweep import sweep as flow
    elif name == "replace":
        from flows.replace import replace as flow
    elif name == "evaluate":
        from flows.evaluation import evaluate as flow
    elif name == "compare":
        from flows.compare import compare as flow
    elif name == "watch":
        from flows.watch import watch as flow
    else:
        from flows.sensitivity import sensitivity as flow
    return flow


COMMANDS = dict.fromkeys(("sweep", "replace", "evaluate", "compare", "sensitivity", "watch"), run)
