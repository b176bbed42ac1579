"""WikiText-103 raw as an evaluation set: its lines rejoined into the articles they came from.

The published data set has one line per row. A row ` = Title = ` between blank rows begins an article;
` = = Section = = ` does not, and neither does a line of a table or formula that happens to begin and
end with an equals sign. Text stays as it is published (`raw`: real words, tokens set apart by spaces);
nothing is detokenised, and corpus.json says so.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dihal_core.corpus.documents import Document
from dihal_core.corpus.opening import is_local, join, local_path, redacted
from dihal_core.corpus.sources import Origin, Source
from dihal_core.errors import AssetError

DATASET, CONFIG = "Salesforce/wikitext", "wikitext-103-raw-v1"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
LICENCE = "CC BY-SA 3.0 and GFDL"
SPLITS = {"test": "test", "development": "validation"}
"""Published split by `corpus.evaluation_part`: design choices never look at the test split."""
_TITLE = re.compile(r"= (?!=)(.+)(?<!=) =")


def title_of(line: str) -> str | None:
    """Return the title if `line` has the form of a level-1 title."""
    match = _TITLE.fullmatch(line.strip())
    return match.group(1).strip() if match and " = " not in match.group(1) else None


def join_pages(rows: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of every article; the text begins with its title line.

    A level-1 title stands between blank rows (or at the very beginning). Rows before the first title
    form an untitled article.
    """
    title, page = "", []
    before, here = "", None
    for after in _with_end(rows):
        if here is not None:
            found = title_of(here) if not before.strip() and not after.strip() else None
            if found is not None:
                if any(line.strip() for line in page):
                    yield title, _joined(page)
                title, page = found, []
            page.append(here)
            before = here
        here = after
    if any(line.strip() for line in page):
        yield title, _joined(page)


def _with_end(rows: Iterable[str]) -> Iterator[str]:
    for row in rows:
        yield row.removesuffix("\n")
    yield ""


def _joined(page: list[str]) -> str:
    return "\n".join(line.strip() for line in page).strip() + "\n"


def read_wikitext(base: str | None, part: str) -> tuple[Source, Origin, dict[str, Any]]:
    """Return the articles of the split that belongs to `part`, with where they came from.

    Parameters
    ----------
    base
        Folder or URL with `<split>-*.parquet` (also in a sub-folder `wikitext-103-raw-v1`), or a local folder with
        the original `wiki.<test|valid>.raw`; None means the Hub at a pinned revision.
    part
        `test` or `development` (the published validation split).

    Raises
    ------
    AssetError
        If there is no such file, or it holds no article.
    NetworkError
        If the Hub could not be reached.
    """
    split = SPLITS[part]
    rows, where = _rows(base, split)
    documents = [
        Document(f"{number}:{title}", text, "eval_wiki", metadata={"title": title or None})
        for number, (title, text) in enumerate(join_pages(rows))
    ]
    if not documents:
        raise AssetError(f"WikiText-103 {split} from {where} holds no article; check corpus.evaluation_url")
    label = f"WikiText-103 raw, {split}, {where}"
    facts = {
        "set": "wikitext103", "dataset": DATASET, "config": CONFIG, "split": split, "from": where,
        "documents": len(documents), "rejoined_at": "level-1 titles", "detokenised": False,
    }  # fmt: skip
    return Source("eval_wiki", label, LICENCE, 0.0, tuple(documents)), Origin("WikiText-103 raw", where), facts


def _rows(base: str | None, split: str) -> tuple[Iterator[str], str]:
    from dihal_core.corpus.hub import stream_rows

    if base is None:
        return _texts(stream_rows(DATASET, CONFIG, split, REVISION), split), f"the Hub at {REVISION[:12]}"
    if not is_local(base):
        files = [base if base.endswith(".parquet") else join(base, f"{split}-*.parquet")]
        return _texts(stream_rows("parquet", None, split, data_files=files), split), redacted(base)
    folder = local_path(base)
    raw = folder / f"wiki.{'valid' if split == 'validation' else split}.raw"
    if raw.is_file():
        return iter(raw.read_text(encoding="utf-8").split("\n")), "local files"
    found = [folder] if folder.is_file() else sorted(_parquet_files(folder, split))
    if not found:
        raise AssetError(
            f"corpus.evaluation_url={base!r} has neither {split}-*.parquet nor {raw.name}; download them from "
            f"the Hub data set {DATASET} ({CONFIG}), or leave corpus.evaluation_url out to stream it"
        )
    return _texts(stream_rows("parquet", None, split, data_files=map(str, found)), split), "local files"


def _parquet_files(folder: Path, split: str) -> Iterator[Path]:
    for place in (folder, folder / CONFIG):
        yield from place.glob(f"{split}-*.parquet")


def _texts(rows: Any, split: str) -> Iterator[str]:
    from dihal_core.corpus.hub import explained

    try:
        for row in rows:
            yield row["text"] or ""
    except Exception as error:
        raise explained(error, f"WikiText-103 {split}", reading=True) from error
