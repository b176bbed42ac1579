"""Readers of the texts unpacked from pinned wheels: wiki leads, recipes, news, speeches, plays.

Each reader takes the unpacked file or folder and returns documents and what it turned away by reason.
"""

import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dihal_core.corpus.documents import Document
from dihal_core.errors import AssetError

Read = tuple[list[Document], Counter[str]]

MIN_NEWS_CHARACTERS = 300
BROKEN_NEWS = re.compile(
    "\ufffd"  # undecodable bytes
    r"|\w\?\w"  # an accented letter turned into a question mark: Schr?der
    r'|"\?|\s\?\S'  # typographic quotes and currency signs turned into question marks
    r'|[A-Za-z]"[a-z]'  # apostrophes turned into double quotes: O"ullivan
    r"|[.,:;]-\s?[A-Za-z]"  # no-break spaces turned into hyphens
)


def read_wiki(path: Path) -> Read:
    """Return lead sections of Wikipedia articles."""
    entries = _load_json(path)
    documents = [
        Document(key, entry["extract"].strip(), "wiki", metadata={"group": entry["title"], "title": entry["title"]})
        for key, entry in entries.items()
    ]
    return documents, Counter()


def read_wikibooks(path: Path) -> Read:
    """Return recipes of the Wikibooks Cookbook as plain text: title, ingredients, numbered steps."""
    documents, rejects = [], Counter[str]()
    for key, recipe in _load_json(path).items():
        if not recipe["ingredients"] or not recipe["steps"]:
            rejects["incomplete_recipe"] += 1
            continue
        facts = [
            f"{label}: {recipe[name]}" for label, name in (("Servings", "servings"), ("Time", "time")) if recipe[name]
        ]
        lines = [recipe["title"], "", *facts, *([""] if facts else []), "Ingredients"]
        lines += [f"- {item}" for item in recipe["ingredients"]]
        lines += ["", "Procedure", *(f"{number}. {step}" for number, step in enumerate(recipe["steps"], 1))]
        metadata = {"group": key, "title": recipe["title"]}
        documents.append(Document(key, "\n".join(lines), "wikibooks", metadata=metadata))
    return documents, rejects


def read_news(path: Path) -> Read:
    """Return news articles; stubs and articles whose characters were destroyed upstream are turned away."""
    documents, rejects = [], Counter[str]()
    for row in _zipped_csv(path, "NewsArticles.csv"):
        title, text = (row["title"] or "").strip(), (row["text"] or "").strip()
        if len(text) < MIN_NEWS_CHARACTERS:
            rejects["stub"] += 1
        elif BROKEN_NEWS.search(f"{title}\n{text}"):
            rejects["mojibake"] += 1
        else:
            metadata = {"group": title.casefold() or row["article_id"], "title": title}
            body = f"{title}\n\n{text}" if title else text
            documents.append(
                Document(row["article_id"], body, "news", created=row["publish_date"] or "", metadata=metadata)
            )
    return documents, rejects


def read_conversation(path: Path) -> Read:
    """Return speeches of the House of Commons, each with its speaker; a debate is a group."""
    documents = []
    for row in _zipped_csv(path, "en.csv"):
        debate = f"{row['date']} {row['agenda']}"
        documents.append(
            Document(
                f"{debate} #{row['speechnumber']}",
                f"{row['speaker']}: {row['text'].strip()}",
                "conversation",
                created=row["date"],
                metadata={"group": debate, "title": row["agenda"]},
            )
        )
    return documents, Counter()


def read_books(path: Path) -> Read:
    """Return the acts of Shakespeare's plays; a play is a group."""
    documents = []
    for file in sorted(path.glob("*.md")):
        lines = file.read_text(encoding="utf-8").splitlines()
        title = lines[0].lstrip("# ").strip()
        for number, (heading, act) in enumerate(_acts(lines)):
            text = re.sub(r"\n{3,}", "\n\n", "\n".join([title, heading, "", *map(_plain_line, act)])).strip()
            metadata = {"group": file.stem, "title": f"{title}, {heading}"}
            documents.append(Document(f"{file.stem}#{number}", text, "books", metadata=metadata))
    return documents, Counter()


def _acts(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    heading, body = "", []
    for line in lines[1:]:
        if re.match(r"(## |#### ACT )", line):
            if any(body):
                yield heading, body
            heading, body = line.lstrip("# ").strip(), []
        else:
            body.append(line)
    if any(body):
        yield heading, body


def _plain_line(line: str) -> str:
    line = line.rstrip().lstrip("#").strip() if line.startswith("#") else line.rstrip()
    return re.sub(r"(\*\*|__|(?<!\w)_|_(?!\w))", "", line)


def _load_json(path: Path) -> dict[str, dict]:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise AssetError(f"{path} is no readable JSON ({error}); run `dihal setup` again") from error


def _zipped_csv(path: Path, name: str) -> Iterator[dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(name).decode("utf-8")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise AssetError(f"{path} holds no readable {name} ({error}); run `dihal setup` again") from error
    return csv.DictReader(io.StringIO(text, newline=""))
