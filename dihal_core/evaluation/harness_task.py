"""A local lm-eval task: the study's held-out wiki pages, scored as lm-eval scores WikiText, whole pages.

Word perplexity is exp(-sum of log-probabilities / number of words split at white space), byte perplexity
and bits per byte likewise over UTF-8 bytes: independent of the tokenizer, sums over sums. The files name
no model; `lm_eval` reads them from a folder, without network.
"""

import json
from pathlib import Path
from typing import Any

from dihal_core.assets import asset_file
from dihal_core.config import StudySettings
from dihal_core.corpus.offline import EVALUATION_ASSET
from dihal_core.corpus.wiki_markup import read_pages
from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.evaluation.harness import harness_model, require_harness
from dihal_core.files import write_atomically
from dihal_core.hybrid.causal_lm import DiHALForCausalLM
from dihal_core.hybrid.sources import asset_records
from dihal_core.remote.link import store_folder

TASK = "dihal_wiki"
PAGES = "pages.jsonl"
METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def study_pages(study: Path) -> list[dict[str, str]]:
    """Return title and text of the evaluation pages of a finished study, in its documents' order.

    Parameters
    ----------
    study
        `<home>/studies/<name>`; its corpus store says which pages they are, their text is in the asset.

    Raises
    ------
    ArtifactError
        If the study or its corpus store cannot be read, or the asset holds other texts.
    ConfigError
        If the study evaluated no wiki pages.
    """
    home = study.parent.parent
    try:
        data = json.loads((study / "study.json").read_bytes())
        settings = StudySettings.model_validate(data["settings"])
        store = next(row["store"] for row in data["records"] if row["stage"] == "corpus")
        rows = [json.loads(line) for line in _documents(home, store).read_bytes().splitlines()]
        wanted = {row["id"]: row["title"] for row in rows if row["split"] == "eval_wiki"}
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ArtifactError(
            f"study {study} or its corpus cannot be read ({type(error).__name__}: {error}); run the study again"
        ) from error
    if settings.corpus.kind != "offline" or not wanted:
        raise ConfigError(
            f"study {study.name} has corpus.kind={settings.corpus.kind} and {len(wanted)} wiki pages; the task needs the "
            "offline corpus with evaluation pages"
        )
    asset = settings.backbone.model_copy(update={"identifier": EVALUATION_ASSET, "name": "evaluation pages"})
    record = asset_records(asset, (home,))[EVALUATION_ASSET]
    documents, _ = read_pages(asset_file(record, "enwiki-pages.xml.bz2"))
    texts = {document.identity: document.text for document in documents}
    missing = [title for identity, title in wanted.items() if identity not in texts]
    if missing:
        raise ArtifactError(f"page {missing[0]!r} of study {study.name} is not in {record.uri}; run the study again")
    return [{"title": str(title), "page": texts[identity]} for identity, title in wanted.items()]


def _documents(home: Path, store: str) -> Path:
    return store_folder(home, *store.split("/", 1)) / "documents.jsonl"


def write_task(folder: Path, pages: list[dict[str, str]]) -> Path:
    """Write the task's YAML and its pages into `folder` (lm-eval's `include_path`) and return it."""
    lines = "".join(json.dumps(page, ensure_ascii=False) + "\n" for page in pages)
    write_atomically(folder / PAGES, lines.encode())
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((folder / PAGES).resolve())}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": name} for name in METRICS],
        "metadata": {"version": 1.0},
    }
    write_atomically(folder / f"{TASK}.yaml", json.dumps(task, indent=1).encode())  # JSON is YAML
    return folder


def evaluate_with_harness(
    model: DiHALForCausalLM,
    tokenizer: Any,
    pages: list[dict[str, str]],
    folder: Path,
    limit: int | None = None,
    window_tokens: int | None = None,
) -> dict[str, dict[str, float]]:
    """Return `{"hybrid": {...}, "teacher": {...}}` with word and byte perplexity and bits per byte.

    Parameters
    ----------
    folder
        Where the task's files are written.
    limit
        Pages taken from the start; all by default.
    window_tokens
        As in `harness_model`.
    """
    lm_eval = require_harness()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(write_task(folder, pages)), include_defaults=False)
    found = {}
    for name, teacher in (("hybrid", False), ("teacher", True)):
        results = lm_eval.simple_evaluate(
            model=harness_model(model, tokenizer, teacher, window_tokens),
            tasks=[TASK],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
        )
        row = results["results"][TASK]
        found[name] = {metric: float(row[f"{metric},none"]) for metric in METRICS}
    return found
