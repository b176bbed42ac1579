"""`dihal ablate`: bridge architectures compared at one layer. Parsing only; the flow does the rest."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from flows.cli_study import run_flow

DESCRIPTION = (
    "Train bridges and controls at one layer on the same windows, batches, steps and tokens, with several seeds, and "
    "print a table with budgets, document intervals and spread over seeds (the paper's appendix D.1). An interrupted "
    "comparison goes on with the arm and seed it stopped at. Arms are listed in dihal_core/bridges/ablation_arms.py. "
    "Scored on the development half of the evaluation documents, because whoever chooses by the table uses them up; for "
    "figures to quote: --set corpus.evaluation_part=test."
)
CHOICES = {"layer": "ablation.layer", "seeds": "ablation.seeds", "steps": "ablation.training.max_steps"}


def add_parser(commands: Any, study_arguments: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add `ablate` to the `dihal` parser."""
    ablate = commands.add_parser("ablate", help="compare bridge architectures at one layer", description=DESCRIPTION)
    study_arguments(ablate)
    ablate.add_argument("--layer", type=int, default=None, help="layer to compare at (default: 1)")
    ablate.add_argument("--arms", nargs="+", default=None, metavar="ARM", help="e.g. mlp unet ridge-3 (default: all)")
    ablate.add_argument("--seeds", type=int, default=None, help="trainings of every trained arm (default: 3)")
    ablate.add_argument("--steps", type=int, default=None, help="optimiser steps of every trained arm (default: 400)")
    ablate.add_argument(
        "--force", nargs="+", default=[], metavar="STAGE", help="run these stages again although cached"
    )
    ablate.add_argument("--port", type=int, default=None, help="port of the local Prefect server (default: 4200)")


def with_choices(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with the short options written out as settings."""
    for name, path in CHOICES.items():
        if getattr(arguments, name) is not None:
            arguments.assignments.append(f"{path}={getattr(arguments, name)}")
    if arguments.arms is not None:
        arguments.assignments.append(f"ablation.arms={json.dumps(arguments.arms)}")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Run the comparison; always 0, a failed arm is an error."""
    run_flow(with_choices(arguments), "ablate")
    return 0


COMMANDS = {"ablate": run}
