"""Stage `hybrid`: the trained bridge of the chosen layer as a folder that transformers loads.

It trains and measures nothing: weights come from stage `replace`, figures of the card from `evaluate`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from dihal_core.backbones.threads import resolve_device, use_threads
from dihal_core.backbones.tokenizers import load_tokenizer, quiet_transformers
from dihal_core.config import BridgeSettings
from dihal_core.contract import StageContext
from dihal_core.files import write_atomically
from dihal_core.hybrid.assemble import hybrid_of_store
from dihal_core.hybrid.card import merged_card, model_card
from dihal_core.hybrid.checkpoint import MERGED, load_hybrid, save_hybrid
from dihal_core.hybrid.tokenizer import hybrid_tokenizer, tokens_of
from dihal_core.store import StageRecord, read_json

CARD = "README.md"


def build_hybrid(context: StageContext) -> dict[str, Any]:
    """Write the folder of the hybrid: config, weights, tokenizer, card.

    Raises
    ------
    ArtifactError
        If the result of a stage before it cannot be read.
    """
    settings, inputs = context.settings, cast(Any, context.inputs)
    use_threads(settings.evaluation.threads)
    replace = read_json(inputs["replace"], "replace.json")
    layer = int(replace["layer"])
    tokenizer = load_tokenizer(settings.backbone, inputs["assets"])
    model = hybrid_of_store(
        inputs["replace"].path / "arms",
        layer,
        settings,
        inputs["assets"],
        tokens_of(tokenizer, settings.backbone),
        device=resolve_device(settings.compute.device),
        shared=True,
    )
    save_hybrid(model, context.store.path)
    hybrid_tokenizer(tokenizer, settings.backbone).save_pretrained(context.store.path)
    evaluations = _evaluations(inputs["evaluate"])
    card = model_card(
        settings,
        replace,
        read_json(inputs["corpus"], "corpus.json"),
        evaluations,
        model.config.backbone_sha256,
        model.config.bridge_structure,
    )
    context.store.write_bytes(CARD, card.encode())
    return {"layer": layer, "parameters": sum(p.numel() for p in model.arm.parameters()), "arm": model.config.arm}


def _evaluations(records: Mapping[Any, StageRecord]) -> dict[str, Any]:
    return {str(name): read_json(records[name], "evaluation.json") for name in sorted(records, key=str)}


def copy_hybrid(source: Path, target: Path, merged: bool, home: Path | None = None) -> None:
    """Load the hybrid in `source` and save it in `target`, with tokenizer and card.

    Parameters
    ----------
    merged
        Put the weights of the backbone, and of a VAE, into the copy.
    home
        As in `checkpoint.load_hybrid`.
    """
    with quiet_transformers():
        model = load_hybrid(source, home=home)
        save_hybrid(model, target, merged)
    for path in sorted(source.iterdir()):
        if path.is_file() and (path.name in (CARD, "chat_template.jinja") or path.name.startswith("tokenizer")):
            write_atomically(target / path.name, path.read_bytes())
    if (target / MERGED).is_dir() and (target / CARD).is_file():
        bridge = TypeAdapter(BridgeSettings).validate_python(model.config.bridge_settings)
        card = (target / CARD).read_text(encoding="utf-8")
        write_atomically(target / CARD, merged_card(card, bridge).encode())
