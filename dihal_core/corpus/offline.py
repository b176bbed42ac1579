"""The default corpus: real text that pip can fetch, in Dolma's shape, from seven kinds of sources.

Shares are ours: the kinds of Dolma v1.7 (web, code, conversation, papers, encyclopaedia, books) in
proportions that the amounts at hand allow; no source is quoted as Dolma's.
"""

import dataclasses
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dihal_core.asset_list import ASSETS
from dihal_core.assets import asset_file
from dihal_core.corpus.documents import Document
from dihal_core.corpus.python_texts import read_code, read_docstrings, read_topics
from dihal_core.corpus.sources import Origin, Pool, Source
from dihal_core.corpus.wheel_texts import read_books, read_conversation, read_news, read_wiki, read_wikibooks
from dihal_core.corpus.wiki_markup import read_pages
from dihal_core.errors import ConfigError
from dihal_core.store import StageRecord

EVALUATION_ASSET = "text-enwiki-pages"


@dataclasses.dataclass(frozen=True)
class AssetText:
    """A source that lies in an asset."""

    name: str
    asset: str
    file: str
    share: float
    licence: str
    read: Callable[[Path], tuple[list[Document], Counter[str]]]


ASSET_TEXTS = (
    AssetText("wiki", "text-wiki", "summaries_en-us.json", 0.20, "CC BY-SA 4.0", read_wiki),
    AssetText("wikibooks", "text-wikibooks", "recipes_en-us.json", 0.08, "CC BY-SA 4.0", read_wikibooks),
    AssetText("news", "text-news", "NewsArticles.zip", 0.28, "CC0 collection, publishers' texts", read_news),
    AssetText("conversation", "text-news", "houseofcommons.zip", 0.07, "Open Parliament Licence", read_conversation),
    AssetText("books", "text-plays", "plays", 0.10, "public domain", read_books),
)
CODE_SHARE = 0.15
DOCS_SHARE = 0.12


def read_offline(
    assets: Mapping[str, StageRecord], with_evaluation: bool, progress: Callable[[], None] = lambda: None
) -> Pool:
    """Read every offline source at hand; a source that is missing is named in `Pool.missing`.

    Parameters
    ----------
    assets
        Records of unpacked text assets by name.
    with_evaluation
        Whether the evaluation pages are wanted.
    progress
        Called after each source.

    Raises
    ------
    ConfigError
        If there is no text at all.
    """
    sources, origins, missing = [], [], []
    for text in ASSET_TEXTS:
        if text.asset not in assets:
            missing.append(f"source {text.name} is left out: asset {text.asset} was not fetched (run `dihal setup`)")
            continue
        documents, rejects = text.read(asset_file(assets[text.asset], text.file))
        sources.append(Source(text.name, _wheels(text.asset), text.licence, text.share, tuple(documents), rejects))
        progress()
    for read in (_code, _docs):
        source, sentence = read()
        if source is None:
            missing.append(sentence)
        else:
            sources.append(source)
        progress()
    origins.extend(_asset_origin(name) for name in dict.fromkeys(text.asset for text in ASSET_TEXTS) if name in assets)
    evaluation = None
    if with_evaluation:
        evaluation, sentence = read_evaluation(assets)
        if evaluation is None:
            missing.append(sentence)
        else:
            origins.append(_asset_origin(EVALUATION_ASSET))
            progress()
    if not sources:
        raise ConfigError("the offline corpus found no text at all; run `dihal setup`, or choose corpus.kind=builtin")
    return Pool(tuple(sources), evaluation, tuple(origins), tuple(missing))


def read_evaluation(assets: Mapping[str, StageRecord]) -> tuple[Source | None, str]:
    """Return the packaged Wikipedia pages, or None and the sentence that says why there are none."""
    if EVALUATION_ASSET not in assets:
        return None, f"evaluation pages are left out: asset {EVALUATION_ASSET} was not fetched (run `dihal setup`)"
    documents, rejects = read_pages(asset_file(assets[EVALUATION_ASSET], "enwiki-pages.xml.bz2"))
    return Source("eval_wiki", _wheels(EVALUATION_ASSET), "CC BY-SA 3.0", 0.0, tuple(documents), rejects), ""


def _code() -> tuple[Source | None, str]:
    documents, rejects = read_code()
    if not documents:
        return None, "source code is left out: this Python ships no readable standard library"
    return Source("code", _python(), "PSF-2.0", CODE_SHARE, tuple(documents), rejects), ""


def _docs() -> tuple[Source | None, str]:
    (topics, _), (docstrings, rejects) = read_topics(), read_docstrings("scipy")
    documents = [*topics, *docstrings]
    if not documents:
        return None, "source docs is left out: neither pydoc topics nor scipy's docstrings were found"
    return Source(
        "docs",
        f"{_python()} topics, scipy {_version('scipy')}",
        "PSF-2.0, BSD-3-Clause",
        DOCS_SHARE,
        tuple(documents),
        rejects,
    ), ""


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _wheels(asset: str) -> str:
    return ", ".join(wheel.requirement for wheel in ASSETS[asset].wheels)


def _asset_origin(name: str) -> Origin:
    """Name the pinned digests: the files were checked against them when they were unpacked."""
    asset = ASSETS[name]
    return Origin(
        ", ".join(wheel.project for wheel in asset.wheels),
        ", ".join(wheel.version for wheel in asset.wheels),
        {member.path: member.sha256 for member in asset.members},
    )
