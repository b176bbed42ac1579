"""Any Hugging Face text data set, streamed through `datasets`: from the Hub, or from parquet, json or text files.

Each chosen file of the data set is one committed unit, like a shard of Dolma; of each the first
`rows_per_shard` rows are looked at. Nothing is downloaded that is not read.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dihal_core.config import CorpusSettings, HuggingFaceSettings
from dihal_core.corpus.documents import Document
from dihal_core.corpus.opening import is_local, redacted
from dihal_core.corpus.plans import Plan, Shard, choose
from dihal_core.corpus.reports import ReadReport
from dihal_core.corpus.sampling import Reader
from dihal_core.corpus.wikitext import join_pages
from dihal_core.errors import AssetError, ConfigError, DihalError, NetworkError

SOURCE = "huggingface"
TOLD_EVERY = 500
BUILDERS = ("parquet", "json", "text")
"""Names that stand for a file format and not for a data set of the Hub."""


def stream_rows(
    dataset: str, config: str | None, split: str, revision: str | None = None, data_files: Iterable[str] = ()
) -> Any:
    """Return a streaming `datasets.IterableDataset`; nothing but metadata is fetched yet.

    Raises
    ------
    ConfigError
        If there is no such configuration or split.
    AssetError
        If there is no such data set or file, or it cannot be read.
    NetworkError
        If the Hub could not be reached.
    """
    from datasets import load_dataset

    files: dict[str, Any] = {"data_files": {split: list(data_files)}} if data_files else {}
    pinned = {"revision": revision} if revision and dataset not in BUILDERS else {}
    try:
        return load_dataset(dataset, config, split=split, streaming=True, **pinned, **files)
    except Exception as error:
        raise explained(error, label_of(dataset, config, split)) from error


def label_of(dataset: str, config: str | None, split: str) -> str:
    """Return the name of a data set for messages and tables."""
    return f"{dataset}{f'/{config}' if config else ''} ({split})"


def explained(error: Exception, label: str, reading: bool = False) -> DihalError:
    """Return the error of ours that says what an error of `datasets` means, when opened or when `reading` rows."""
    if isinstance(error, DihalError):
        return error
    name, first = type(error).__name__, str(error).strip().partition("\n")[0]
    facts = f"data set {label}: {name}: {first}"
    if isinstance(error, ImportError):
        return ConfigError(f"{facts}; install the package it names")
    if (
        isinstance(error, FileNotFoundError) or "data file" in first
    ):  # also DatasetNotFoundError and DataFilesNotFoundError
        return AssetError(f"{facts}; check corpus.huggingface.dataset and data_files, and your access if it is gated")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("httpx", "aiohttp", "huggingface_hub"):
        return NetworkError(f"{facts}; check the network, or give local files (corpus.huggingface.data_files)")
    if isinstance(error, ValueError) and not reading:
        return ConfigError(f"{facts}; check corpus.huggingface.config, split and revision")
    return AssetError(f"{facts}; the data cannot be read, fetch it again")


def hub_plan(corpus: CorpusSettings, seed: int) -> tuple[Plan, Reader]:
    """Choose files of the data set by seeded hash and return the plan with its reader.

    Raises
    ------
    ConfigError, AssetError, NetworkError
        As `stream_rows`, and if the data set has no column `text_field`.
    """
    wanted = corpus.huggingface
    label = _label(wanted)
    rows = stream_rows(str(wanted.dataset), wanted.config, wanted.split, wanted.revision, wanted.data_files)
    columns = rows.column_names
    for field in (wanted.text_field, wanted.id_field):
        if field is not None and columns is not None and field not in columns:
            raise ConfigError(
                f"data set {label} has no column {field!r}; its columns are {', '.join(columns)}: set "
                "corpus.huggingface.text_field (and id_field)"
            )
    whole = wanted.layout == "wikitext_lines"  # a page may go on in the next file
    count = 1 if whole else max(1, rows.num_shards)
    paths = {f"{label}/{number:05d}-of-{count:05d}": number for number in range(count)}
    quotas = {SOURCE: corpus.num_sequences}
    plan = choose(label, _licence(rows), {SOURCE: tuple(paths)}, quotas, corpus, seed)

    def read(shard: Shard, report: ReadReport, part: Callable[[float], None]) -> Iterator[Document]:
        chosen = rows if count == 1 else rows.shard(num_shards=count, index=paths[shard.path])
        limit = wanted.rows_per_shard
        found = _read_rows(chosen.take(limit), shard, report, wanted, label)
        for number, document in enumerate(found):
            if number % TOLD_EVERY == 0:
                part(report.lines / limit)
            yield document
        report.cut = report.lines >= limit

    return plan, read


def _read_rows(
    rows: Iterable[dict[str, Any]], shard: Shard, report: ReadReport, wanted: HuggingFaceSettings, label: str
) -> Iterator[Document]:
    digest, report.place = hashlib.sha256(), "row"

    def texts() -> Iterator[tuple[int, dict[str, Any], str]]:
        """Yield (row number, row, text) of the rows that have one."""
        try:
            for number, row in enumerate(rows):
                report.lines += 1
                text = row.get(wanted.text_field)
                if not isinstance(text, str):
                    report.reject(f"{wanted.text_field}_not_a_string", number)
                    continue
                stored = text.encode("utf-8", "surrogatepass")
                digest.update(stored)
                report.bytes_read += len(stored)
                yield number, row, text
        except DihalError:
            raise
        except Exception as error:
            raise explained(error, label, reading=True) from error

    if wanted.layout == "wikitext_lines":
        for number, (title, text) in enumerate(join_pages(text for _, _, text in texts())):
            report.accepted += 1
            yield Document(f"{number}:{title}", text, shard.folder, metadata={"title": title})
    else:
        for number, row, text in texts():
            if not text or text.isspace():
                report.reject("empty_text", number)
                continue
            name = row.get(wanted.id_field) if wanted.id_field else None
            report.accepted += 1
            yield Document(f"{shard.path}:{number}" if name is None else str(name), text, shard.folder)
    report.bytes_plain, report.sha256 = report.bytes_read, digest.hexdigest()


def _label(wanted: HuggingFaceSettings) -> str:
    """Name the data set in results: local paths would make equal stores differ."""
    label = label_of(str(wanted.dataset), wanted.config, wanted.split)
    remote = [redacted(name) for name in wanted.data_files if not is_local(name)]
    return (
        label + (f" of {', '.join(remote)}" if remote else "") + (f" at {wanted.revision}" if wanted.revision else "")
    )


def _licence(rows: Any) -> str:
    return str(getattr(rows.info, "license", "") or "not stated by the data set")
