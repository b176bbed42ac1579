"""Full Wikipedia pages out of a MediaWiki XML dump, as plain text.

The evaluation pages: cleaned of templates, tables, references and links; sections that are lists of
sources are cut off; redirects and short pages are turned away.
"""

import bz2
import html
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from dihal_core.corpus.documents import Document
from dihal_core.errors import AssetError

MIN_PAGE_CHARACTERS = 2000

_DROPPED_SECTIONS = re.compile(
    r"^==\s*(see also|references|notes|footnotes|citations|sources|further reading|external links|bibliography|"
    r"works cited|notes and references)\s*==\s*$.*?(?=^==[^=]|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_PAIRED = re.compile(
    r"<(ref|gallery|timeline|source|syntaxhighlight|score|imagemap|table|nowiki|pre|code)\b[^<>]*(?<!/)>.*?</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_INNER_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_INNER_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
_INNER_FILE = re.compile(
    r"\[\[(?:File|Image|Category|[a-z]{2,3}(?:-[a-z]+)?):(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]", re.I
)
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_URL_WITH_TEXT = re.compile(r"\[(?:https?:)?//[^\s\]]+\s+([^\]]*)\]")
_URL = re.compile(r"\[?(?:https?:)?//[^\s\]]+\]?")


def read_pages(path: Path) -> tuple[list[Document], Counter[str]]:
    """Return the articles of a bz2-compressed MediaWiki dump.

    Raises
    ------
    AssetError
        If the file is no readable dump.
    """
    documents, rejects = [], Counter[str]()
    try:
        root = ElementTree.fromstring(bz2.decompress(path.read_bytes()))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise AssetError(f"{path} is no readable MediaWiki dump ({error}); run `dihal setup` again") from error
    for page in root.iterfind("{*}page"):
        title = page.findtext("{*}title", "")
        if page.findtext("{*}ns") != "0":
            rejects["not_an_article"] += 1
            continue
        if page.find("{*}redirect") is not None:
            rejects["redirect"] += 1
            continue
        text = plain_text(page.findtext("{*}revision/{*}text", ""))
        if len(text) < MIN_PAGE_CHARACTERS:
            rejects["stub"] += 1
            continue
        metadata = {"group": title, "title": title}
        documents.append(Document(page.findtext("{*}id", title), f"{title}\n\n{text}", "eval_wiki", metadata=metadata))
    return documents, rejects


def plain_text(markup: str) -> str:
    """Return the running text of a page: paragraphs, headings and list items, without markup."""
    text = re.sub(r"<!--.*?-->", "", markup, flags=re.DOTALL)
    text = re.sub(r"<ref\b[^<>]*/>", "", text, flags=re.IGNORECASE)
    text = re.sub(r"<math\b[^<>]*>.*?</math\s*>", "\0", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"^.*\0.*$", "", text, flags=re.MULTILINE)  # a sentence without its formula is no sentence
    text = _PAIRED.sub("", text)
    for _ in range(2):  # links stand inside templates and templates inside links
        text = _until_stable(_INNER_FILE, "", text)
        text = _until_stable(_LINK, r"\1", text)
        text = _until_stable(_INNER_TEMPLATE, _template_text, text)
    text = _until_stable(_INNER_TABLE, "", text)
    text = _DROPPED_SECTIONS.sub("", text)
    text = _URL.sub("", _URL_WITH_TEXT.sub(r"\1", text))
    text = re.sub(r"<br\s*/?>", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"</?[a-zA-Z][^<>]*>", "", text)
    text = re.sub(r"__[A-Z]+__", "", text)
    text = re.sub(r"'{2,5}", "", text)
    text = html.unescape(text).replace("\u00a0", " ")
    text = re.sub(r"^\s*(=+)\s*(.*?)\s*\1\s*$", r"\2", text, flags=re.MULTILINE)
    text = re.sub(r"^[*#:;]+\s*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*[|!}{][^\n]*$", "", text, flags=re.MULTILINE)
    return _tidy(text)


def _template_text(match: re.Match[str]) -> str:
    """Return what a reader would see of the few templates that carry running text; the rest vanish."""
    name, *fields = [part.strip() for part in match.group(1).split("|")]
    plain = [field for field in fields if not re.match(r"\w+\s*=", field)]
    match name.casefold():
        case "convert" | "cvt" if len(plain) >= 2:
            return " ".join(plain[:2])
        case "lang" if len(plain) >= 2:
            return plain[1]
        case "nowrap" | "quote" | "blockquote" | "small" | "abbr" if plain:
            return plain[0]
        case "circa" | "as of" | "transl" if plain:
            return {"circa": f"c. {plain[0]}", "as of": f"As of {plain[0]}"}.get(name.casefold(), plain[-1])
        case "ndash" | "spaced ndash":
            return " – "
        case "mdash":
            return "—"
        case "nbsp" | "space" | "spaces":
            return " "
        case _:
            return ""


def _until_stable(pattern: re.Pattern[str], replacement, text: str) -> str:
    """Replace innermost matches until none is left: markup nests."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)
    return text


def _tidy(text: str) -> str:
    text = re.sub(r"\(\s*[,;:.\s]*\)", "", text)
    text = re.sub(r"\(\s*[,;]\s*", "(", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" +([,.;:)])", r"\1", text)
    text = re.sub(r" *\n *", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
