"""What a scientist opens in the Prefect UI: one artifact per decision, made from the stage's own files."""

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

from prefect.artifacts import create_markdown_artifact

from dihal_core.requests import StageRequest
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord
from dihal_core.study import PUBLISHED
from tasks.links import page_place, store_place
from tasks.progress import artifact_key

log = logging.getLogger(__name__)

MOST_SETTINGS = 6000
"""Characters of settings below an artifact."""


def study_slug(request: StageRequest) -> str:
    """Return `<profile>-<backbone>`: the prefix of all artifact keys of one study."""
    return artifact_key(request.settings["profile"], request.settings["backbone"]["name"])


def _data(record: StageRecord, name: str) -> Any:
    return json.loads((record.path / name).read_bytes())


def _image(png: bytes, alternative: str) -> str:
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _footer(request: StageRequest, record: StageRecord) -> str:
    made = STAGES[request.stage].writes
    settings = {path: value for path, value in request.document["settings"].items() if path and path != "all"}
    text = json.dumps(settings, indent=1)
    cut = "" if len(text) <= MOST_SETTINGS else f"The first {MOST_SETTINGS:,} characters; all are in the manifest.\n"
    return (
        f"\n\n---\nStore: {store_place(record)}  \n"
        f"Holds: {made}  \nDigest: `{record.digest[:16]}`, key: `{record.key}`\n\n"
        f"Settings read by this stage:\n```json\n{text[:MOST_SETTINGS]}\n```\n{cut}"
    )


def _counts_table(record: StageRecord) -> str:
    rows = [f"| {name} | {value:,} |" for name, value in record.counts.items() if isinstance(value, int | float)]
    return "| count | value |\n|---|---:|\n" + "\n".join(rows)


def _assets(_request: StageRequest, record: StageRecord) -> str:
    return f"## Asset {record.unit}\n\n{_counts_table(record)}"


def _corpus(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import artifacts

    return "## Corpus: source mix and rejects\n\n" + artifacts.markdown_corpus(_data(record, "corpus.json"))


def _gates(_request: StageRequest, record: StageRecord) -> str:
    gates = _data(record, "gates.json")
    worst = max(item["max_change"] for item in gates["leak"]["bridges"])
    return (
        "## Gates\n\n"
        f"- **Splice**: true hidden state in, teacher logits out, {len(gates['splice']['layers'])} layers, "
        f"{gates['splice']['tokens']} tokens, {gates['splice']['dtype']}: largest logit difference "
        f"**{gates['splice']['max']:g}**.\n"
        f"- **Leak**: future tokens changed, largest change of any earlier state **{worst:g}**.\n"
        f"- **Negative control**: a leaky module changed by {gates['leak']['control']['max_change']:.3g} "
        f"and was {'caught' if gates['leak']['control']['caught'] else 'NOT caught'}."
    )


def _activations(_request: StageRequest, record: StageRecord) -> str:
    return f"## Hidden states of all layers\n\n{_counts_table(record)}"


def _geometry(_request: StageRequest, record: StageRecord) -> str:
    diagnostics = _data(record, "diagnostics.json")
    rows = [f"| {name} | {value:.6g} |" for name, value in diagnostics.items() if isinstance(value, int | float)]
    return f"## Geometry of layer {record.unit}\n\n| quantity | value |\n|---|---:|\n" + "\n".join(rows)


def _score(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import artifacts, figures

    score = _data(record, "score.json")
    return (
        f"## Score: layer {score['selected_layer']} selected\n\nSealed before any bridge was trained: digest "
        f"`{record.digest}`\n\n{_image(figures.figure_score(score), 'score against depth with intervals')}\n\n"
        f"{_image(figures.figure_geometry(score), 'the three proxies against depth')}\n\n"
        f"{artifacts.markdown_score_table(score)}"
    )


def _ridge(_request: StageRequest, record: StageRecord) -> str:
    return f"## Shared ridge factor and train/validation split\n\n{_counts_table(record)}"


def _sweep(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import artifacts

    result = _data(record, "sweep.json")
    return f"## Bridge at layer {record.unit}\n\n" + artifacts.markdown_sweep_table([result])


def _agreement(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import artifacts, figures

    agreement = _data(record, "agreement.json")
    return (
        f"## Does the score predict the bridge loss?\n\n"
        f"{_image(figures.figure_agreement(agreement), 'score against validation loss, one point per layer')}\n\n"
        f"{artifacts.markdown_agreement(agreement)}"
    )


def _replace(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import figures

    result = _data(record, "replace.json")
    return (
        f"## Full training at layer {result['layer']}\n\n"
        f"{_image(figures.figure_training(result), 'training curves of bridge and controls')}\n\n{_counts_table(record)}"
    )


def _evaluate(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import artifacts

    return f"## Evaluation on {record.unit}\n\n" + artifacts.markdown_evaluation([_data(record, "evaluation.json")])


def _cost(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import tables_cost

    cost = _data(record, "cost.json")
    tables = tables_cost.steps_table(cost), tables_cost.cost_table(cost, record.counts["seconds_per_token"])
    return "## What sampler steps buy and what a token costs\n\n" + "\n".join(
        f"### {table.caption}\n\n{table.markdown()}" for table in tables
    )


def _hybrid(_request: StageRequest, record: StageRecord) -> str:
    card = (record.path / "README.md").read_text(encoding="utf-8")
    return "## The hybrid as a model\n\n" + card.split("---\n", 2)[-1].replace("\n# ", "\n### ").replace(
        "\n## ", "\n#### "
    )


def _metrics(_request: StageRequest, record: StageRecord) -> str:
    from dihal_core.reporting import artifacts

    return "## Further metrics of every layer\n\n" + artifacts.markdown_metrics(_data(record, "metrics.json"))


def _ablate(_request: StageRequest, record: StageRecord) -> str:
    return f"## {record.unit}\n\n{_counts_table(record)}"


def _ablation(_request: StageRequest, record: StageRecord) -> str:
    return (record.path / PUBLISHED["ablation"][0]).read_text(encoding="utf-8").replace("\n## ", "\n### ")


def _page(_request: StageRequest, record: StageRecord) -> str:
    answer = "\n".join(f"1. {line}" for line in record.counts.get("answer", []))
    return f"## Answer\n\n{answer}\n\nReport: {page_place(record, PUBLISHED[record.stage][0])}"


ARTIFACTS: dict[str, Callable[[StageRequest, StageRecord], str]] = {
    "assets": _assets,
    "corpus": _corpus,
    "gates": _gates,
    "activations": _activations,
    "geometry": _geometry,
    "score": _score,
    "ridge": _ridge,
    "sweep": _sweep,
    "agreement": _agreement,
    "replace": _replace,
    "evaluate": _evaluate,
    "cost": _cost,
    "hybrid": _hybrid,
    "report": _page,
    "metrics": _metrics,
    "locate": _page,
    "ablate": _ablate,
    "ablation": _ablation,
}


def publish(request: StageRequest, record: StageRecord) -> None:
    """Show the stage's artifact. The study does not hang on it: a failure is a warning."""
    try:
        create_markdown_artifact(
            ARTIFACTS[request.stage](request, record) + _footer(request, record),
            key=artifact_key(study_slug(request), request.label),
            description=f"{request.label}: {STAGES[request.stage].writes}",
        )
    except Exception as error:
        log.warning("artifact of %s not shown (%s: %s)", request.label, type(error).__name__, error)
