"""A few hundred short documents of our own writing, for tests: no download, no asset.

Sentences are put together from templates by hashes, so the text is the same everywhere. It teaches a
model nothing; it has sources, groups, held-out documents and evaluation pages like the real corpus.
"""

from dihal_core.corpus.documents import Document, seeded_rank
from dihal_core.corpus.sources import Origin, Pool, Source

DOCUMENTS_PER_SOURCE = 96
SENTENCES_PER_DOCUMENT = 5

THINGS = (
    "lantern", "harbour", "orchard", "compass", "ledger", "violin", "bakery", "glacier", "meadow", "telescope", "ferry",
    "loom", "beacon", "quarry", "archive", "windmill", "greenhouse", "canal", "printing press", "observatory", "tannery",
    "lighthouse", "vineyard", "foundry", "library", "bridge", "sawmill", "fountain", "courtyard", "workshop",
)  # fmt: skip
PEOPLE = (
    "Ada", "Bela", "Chidi", "Dorrit", "Emeka", "Farah", "Goran", "Hanne", "Imre", "Jonna", "Kofi", "Lucia", "Mirek", "Noor",
    "Otto", "Petra", "Quentin", "Rosa", "Sami", "Tove", "Ugo", "Vera", "Wanda", "Yusuf",
)  # fmt: skip
QUALITIES = (
    "old", "quiet", "crooked", "bright", "narrow", "patient", "forgotten", "salt-worn", "green", "hollow", "tall", "warm",
    "frozen", "curious", "plain", "restless", "careful", "broken", "silver", "slow",
)  # fmt: skip
TIMES = (
    "before dawn", "in late autumn", "after the flood", "every second week", "on the longest day", "when the frost came",
    "during the festival", "at low tide", "for nine winters", "between two storms", "soon after lunch", "at midnight",
)  # fmt: skip

TEMPLATES = {
    "stories": (
        "{p} found the {q} {t} {w} and told nobody about it.",
        "The {t} belonged to {p}, who kept it {q} {w}.",
        "{w} a {q} wind crossed the {t} and {p} closed the door.",
        "Nobody but {p} remembered how {q} the {t} had been {w}.",
        "{p} sold a {t} to {p2} {w} for a {q} price.",
        "They say that {p2} painted the {t} {q} {w} to please {p}.",
        "A letter from {p} came {w}; it smelled of the {q} {t}.",
    ),
    "guides": (
        "To repair a {q} {t}, first ask {p} for the key {w}.",
        "Clean the {t} {w}, then let {p} test whether it is {q}.",
        "Never leave a {q} {t} open {w}, as {p} once did.",
        "Measure the {t} twice {w}; {p} measured a {q} one only once.",
        "If the {t} turns {q} {w}, call {p} or write to {p2}.",
        "Step {n}: carry the {q} {t} to {p} {w}.",
        "Use {n} parts of sand for a {q} {t}, or {p} will object {w}.",
    ),
    "code": (
        "def visit_{i}(person='{p}', count={n}):\n    return f'{{person}} saw {{count}} {t}s, all {q}'\n",
        "# {p} wrote this {w} for a {q} {t}\n",
        "total_{i} = sum(size for size in sizes_of('{t}') if size > {n})  # {q}, says {p}\n",
        "if names.get('{p}') == '{q}':\n    open_{i}('{t}', retries={n})\n",
        "assert len('{t}') < {n}00, '{p} expects a {q} name'\n",
        "for part in reversed('{q} {t}'.split()):\n    print({n}, part, '{p}')\n",
    ),
    "eval_wiki": (
        "The {q} {t} is a landmark first described by {p} {p2} {w}.",
        "In year {n}7 the {t} was rebuilt {w} under the direction of {p2}.",
        "Critics such as {p} regard its {q} form as typical of a {t} built {w}.",
        "A second {t}, less {q}, was planned by {p} but abandoned {w}.",
        "Its {n} rooms hold a {q} collection that {p2} catalogued {w}.",
        "Visitors reach the {t} {w} by a {q} road named after {p}.",
    ),
}


def _choose(words: tuple[str, ...], *key: str | int) -> str:
    return words[seeded_rank(0, "builtin", *key) % len(words)]


def _document(source: str, number: int) -> Document:
    sentences = []
    for index in range(SENTENCES_PER_DOCUMENT):
        key = (source, number, index)
        sentence = _choose(TEMPLATES[source], *key, "template").format(
            t=_choose(THINGS, *key, "thing"),
            p=_choose(PEOPLE, *key, "person"),
            p2=_choose(PEOPLE, *key, "other"),
            q=_choose(QUALITIES, *key, "quality"),
            w=_choose(TIMES, *key, "time"),
            n=2 + seeded_rank(0, *key, "number") % 7,
            i=index,
        )
        sentences.append(sentence[0].upper() + sentence[1:] if source != "code" else sentence)
    text = ("" if source == "code" else " ").join(sentences)
    return Document(f"{source}-{number}", text, source, metadata={"title": f"{source} {number}"})


def read_builtin() -> Pool:
    """Return the built-in sources."""
    sources = {
        name: Source(
            name,
            "built in",
            "Apache-2.0",
            0.0 if name == "eval_wiki" else 1.0,
            tuple(_document(name, number) for number in range(DOCUMENTS_PER_SOURCE)),
        )
        for name in TEMPLATES
    }
    evaluation = sources.pop("eval_wiki")
    return Pool(tuple(sources.values()), evaluation, (Origin("built-in sentences", "1"),))
