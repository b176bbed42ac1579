"""Dolma v1.7 as it is published: which shards exist, and in which mixture OLMo sampled them.

The Hub repository `allenai/dolma` holds no text but `urls/v1_7.txt`, 2,419 addresses. The table below
rebuilds that list byte for byte, so no Hub access is needed; a test checks it against the SHA-256 of
the list at revision 7f48140530a023e9ea4c5cfb141160922727d4d3.
"""

import dataclasses
import hashlib

from dihal_core.corpus.quotas import largest_remainder

BASE_URL = "https://olmo-data.org/dolma-v1_7"
URL_LIST_SHA256 = "9fa8c2f0eb57149ff7914b35ca2ffb8da221c02786d712bcba5f6c39d294b49e"
LICENCE = "ODC-BY 1.0"


@dataclasses.dataclass(frozen=True)
class Folder:
    """Shards `<name>/<prefix>-0000.json.gz` .. of one folder; `gaps` are indices that do not exist."""

    name: str
    prefix: str
    indices: int
    gaps: tuple[int, ...] = ()

    def shards(self) -> tuple[str, ...]:
        """Return the paths of all shards, relative to the root."""
        return tuple(
            f"{self.name}/{self.prefix}-{index:04d}.json.gz" for index in range(self.indices) if index not in self.gaps
        )


FOLDERS = {
    folder.name: folder
    for folder in (
        Folder("books", "books", 3),
        Folder("c4-filtered", "c4", 171),
        Folder("cc_en_head", "cc_en_head", 275),
        Folder("cc_en_middle", "cc_en_middle", 380, (239,)),
        Folder("cc_en_tail", "cc_en_tail", 445, (153,)),
        Folder("cc_news_head", "cc_news", 5),
        Folder("cc_news_middle", "cc_news", 3),
        Folder("cc_news_tail", "cc_news", 1),
        Folder("falcon-refinedweb-filtered", "falcon", 500),
        Folder("pes2o", "pes2o", 26),
        Folder("proof_pile_2-algebraic_stack", "algebraic-stack-train", 16),
        Folder("proof_pile_2-open_web_math", "open-web-math-train", 13),
        Folder("reddit", "reddit", 78),
        Folder("redpajama-arxiv", "arxiv", 100),
        Folder("redpajama-stackexchange", "stackexchange", 26),
        Folder("starcoder", "starcoder", 49),
        Folder("tulu_flan", "tulu_flan", 66),
        Folder("wiki", "wiki", 2),
        Folder("wikiref_megawika", "megawika", 262),
    )
}


@dataclasses.dataclass(frozen=True)
class Component:
    """One row of the published mixture."""

    name: str
    billion_tokens: float
    """OLMo tokens."""
    proportion: float
    """How much of it OLMo sampled."""
    folders: dict[str, float]
    """Its folders, weighted by compressed bytes (by shards where only the sum of bytes is known)."""


MIXTURE = (
    Component("Common Crawl", 1195.5, 0.5, {"cc_en_head": 776.5, "cc_en_middle": 1000.9, "cc_en_tail": 902.3}),
    Component("RefinedWeb", 456.4, 1.0, {"falcon-refinedweb-filtered": 1}),
    Component("StarCoder", 263.8, 1.0, {"starcoder": 1}),
    Component("Reddit", 79.9, 1.0, {"reddit": 1}),
    Component("C4", 138.4, 0.5, {"c4-filtered": 1}),
    Component("peS2o", 57.2, 1.0, {"pes2o": 1}),
    Component("arXiv", 28.0, 1.0, {"redpajama-arxiv": 1}),
    Component("StackExchange", 19.6, 1.0, {"redpajama-stackexchange": 1}),
    Component("Flan", 16.5, 1.0, {"tulu_flan": 1}),
    Component("CC News", 14.3, 1.0, {"cc_news_head": 5, "cc_news_middle": 3, "cc_news_tail": 1}),
    Component("OpenWebMath", 12.6, 1.0, {"proof_pile_2-open_web_math": 1}),
    Component("Algebraic Stack", 12.6, 1.0, {"proof_pile_2-algebraic_stack": 1}),
    Component("Wikipedia and Wikibooks", 3.7, 2.0, {"wiki": 1}),
    Component("Gutenberg", 5.3, 1.0, {"books": 1}),
    Component("MegaWika", 4.6, 1.0, {"wikiref_megawika": 1}),
)
"""The rows add up to 1,645.15 B; the data card states 1,715.1 B, which is met with C4 at 100 %. We use the rows."""


def url_list() -> str:
    """Return the published list: all addresses, sorted, one a line."""
    return "".join(f"{url}\n" for url in sorted(f"{BASE_URL}/{s}" for f in FOLDERS.values() for s in f.shards()))


def url_list_sha256() -> str:
    """Return the SHA-256 of `url_list`, to be compared with `URL_LIST_SHA256`."""
    return hashlib.sha256(url_list().encode()).hexdigest()


def component_quotas(total: int) -> dict[str, int]:
    """Return how many of `total` sequences each row of the mixture gives."""
    return largest_remainder(total, {row.name: row.billion_tokens * row.proportion for row in MIXTURE})


def folder_quotas(total: int) -> dict[str, int]:
    """Return how many of `total` sequences each folder gives: rows first, then the folders of a row."""
    quotas: dict[str, int] = {}
    rows = component_quotas(total)
    for row in MIXTURE:
        quotas.update(largest_remainder(rows[row.name], row.folders))
    return quotas


def folder_shares() -> dict[str, float]:
    """Return the share of every folder in the mixture; the sum is 1."""
    weight = sum(row.billion_tokens * row.proportion for row in MIXTURE)
    return {
        folder: row.billion_tokens * row.proportion / weight * part / sum(row.folders.values())
        for row in MIXTURE
        for folder, part in row.folders.items()
    }
