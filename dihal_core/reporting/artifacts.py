"""The tables of a study as Markdown, for the artifacts of a workflow UI."""

from collections.abc import Mapping, Sequence

from dihal_core.reporting.formatting import integer
from dihal_core.reporting.results import Json, keyed
from dihal_core.reporting.tables import Table
from dihal_core.reporting.tables_agreement import loss_table, predictor_table, rule_table, sweep_table
from dihal_core.reporting.tables_locate import layer_table, metric_table
from dihal_core.reporting.tables_seeds import seed_tables, seeds_of
from dihal_core.reporting.tables_study import (
    corpus_table,
    difference_table,
    evaluation_table,
    reject_table,
    split_table,
)


def _section(table: Table) -> str:
    return f"### {table.caption}\n\n{table.markdown()}" if table.rows else ""


def _notes(sentences: list[str]) -> str:
    return "".join(f"- {' '.join(sentence.split())}\n" for sentence in sentences).replace("<", "&lt;")


def _together(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def markdown_score_table(score: Json) -> str:
    """Return the layer table with the selected layer in bold, and what was flagged."""
    return _together(_section(layer_table(score)), _notes(score.get("flags", [])))


def markdown_metrics(metrics: Json) -> str:
    """Return the further metrics, a row per layer."""
    return _section(metric_table(metrics))


def markdown_sweep_table(
    sweeps: Mapping[int, Json] | Sequence[Json], gaps: Mapping[int, str] | None = None, selected: int | None = None
) -> str:
    """Return the losses per layer; layers in `gaps` keep their row with the reason."""
    return _section(sweep_table(keyed(sweeps, "layer"), gaps, selected))


def markdown_agreement(agreement: Json) -> str:
    """Return agreement per loss, every predictor beside the score, the depth rules, and the sentences."""
    return _together(
        _notes(agreement.get("sentences", [])),
        _section(loss_table(agreement)),
        _section(predictor_table(agreement)),
        _section(rule_table(agreement)),
        _notes((seeds_of(agreement) or {}).get("sentences", [])),
        *(_section(table) for table in seed_tables(agreement)),
    )


def markdown_evaluation(evals: Mapping[str, Json] | Sequence[Json]) -> str:
    """Return arms and paired differences of every evaluation set."""
    parts = []
    for block in keyed(evals, "set").values():
        size = f"{integer(block.get('tokens'))} tokens, {integer(block.get('documents'))} documents, layer {block['layer']}"
        parts.append(_together(_section(evaluation_table(block)), f"{size}\n", _section(difference_table(block))))
    return "\n".join(parts)


def markdown_corpus(corpus: Json) -> str:
    """Return sources, splits and rejects, and what was missing."""
    return _together(
        _section(corpus_table(corpus)),
        _section(split_table(corpus)),
        _section(reject_table(corpus)),
        _notes(corpus.get("missing", [])),
    )
