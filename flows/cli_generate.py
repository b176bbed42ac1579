"""`dihal generate` and `dihal export`: the hybrid of a study as a model. Torch is imported when a command runs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dihal_core.errors import ConfigError
from dihal_core.hybrid.published import exported_hybrid, find_study
from dihal_core.store import resolve_home


def add_parsers(commands: Any) -> None:
    """Register both commands."""
    generate = commands.add_parser("generate", help="continue prompts with the hybrid of a study")
    generate.add_argument("prompts", nargs="+", metavar="PROMPT", help="texts to continue")
    _source_arguments(generate)
    generate.add_argument("--layer", type=int, default=None, help="use the sweep's bridge of this layer instead")
    generate.add_argument("--sampling-steps", type=int, default=None, help="steps of the bridge (default: the model's)")
    generate.add_argument("--max-new-tokens", type=int, default=40, help="tokens to add (default: 40)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0: most likely token (default); above: drawn")
    generate.add_argument("--seed", type=int, default=0, help="seed of drawn tokens (default: 0)")

    export = commands.add_parser("export", help="copy the hybrid of a study, with its backbone if asked")
    _source_arguments(export)
    export.add_argument("--to", required=True, metavar="FOLDER", help="folder to write; it must be new or empty")
    export.add_argument("--merged", action="store_true", help="put the weights of backbone and VAE into the copy")


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--study", default=None, metavar="NAME", help="name of a finished study (default: the latest)")
    source.add_argument("--model", default=None, metavar="FOLDER", help="folder of a saved hybrid")
    parser.add_argument("--home", default=None, help="folder of all stores (default: $DIHAL_HOME or ./runs)")


def _folder(arguments: argparse.Namespace, home: Path) -> Path:
    if arguments.model is not None:
        return Path(arguments.model).expanduser()
    return exported_hybrid(find_study(home, arguments.study))


def _given_home(arguments: argparse.Namespace) -> Path | None:
    return None if arguments.home is None else resolve_home(arguments.home)


def generate(arguments: argparse.Namespace) -> int:
    """Print every prompt with its continuation."""
    home = resolve_home(arguments.home)
    if arguments.layer is not None and arguments.model is not None:
        raise ConfigError(f"--layer {arguments.layer} chooses a bridge of a study, --model names one; give one of them")
    if arguments.layer is None:
        folder = _folder(arguments, home)
    else:
        folder = find_study(home, arguments.study)
    from dihal_core.hybrid.generation import beyond_training, check_request, continue_texts, open_hybrid, open_layer

    check_request(arguments.max_new_tokens, arguments.temperature, arguments.sampling_steps)
    if arguments.layer is None:
        model, tokenizer = open_hybrid(folder, _given_home(arguments))
    else:
        model, tokenizer = open_layer(folder, arguments.layer)
    told = beyond_training(model, tokenizer, arguments.prompts, arguments.max_new_tokens)
    if told is not None:
        print(told, file=sys.stderr)
    texts = continue_texts(
        model,
        tokenizer,
        arguments.prompts,
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.seed,
        arguments.sampling_steps,
    )
    print("\n---\n".join(texts))
    name = (model.config.backbone_reference or {}).get("name")
    print(f"\n[{name}, blocks 1..{model.config.layer} replaced by its {model.config.arm}]", file=sys.stderr)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a copy of a hybrid that can be moved or shared."""
    source, target = _folder(arguments, resolve_home(arguments.home)), Path(arguments.to).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--to {str(target)!r} is there already and not an empty folder; give a new one")
    from dihal_core.hybrid.export import copy_hybrid

    copy_hybrid(source, target, arguments.merged, _given_home(arguments))
    print(f"{'merged copy' if arguments.merged else 'copy'} of {source} in {target}")
    return 0


COMMANDS = {"generate": generate, "export": export}
