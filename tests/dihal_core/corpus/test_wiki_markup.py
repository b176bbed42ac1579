import bz2

import pytest

from dihal_core.corpus.wiki_markup import plain_text, read_pages
from dihal_core.errors import AssetError


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("[[Anarchism|anarchist]] and [[law]]s", "anarchist and laws"),
        ("{{quote|after [[Sami people|Laplanders]]}} end", "after Laplanders end"),
        ("fact.<ref name=x>{{cite|a [[b]]}}</ref> More.<ref name=x />", "fact. More."),
        ("about {{convert|15|km|mi}} away", "about 15 km away"),
        ("word {{lang|ja|[[wikt:en:合|合]]}} here", "word 合 here"),
        ("a {{outer|{{inner|x}}|y}} b", "a b"),
        ("[[File:a.png|thumb|A [[cat]] sits {{small|[[here|there]]}}]]Text", "Text"),
        ("[http://example.org the site] and [http://example.org]", "the site and"),
        ("{| class=x\n| cell {| nested |}\n|}\nAfter", "After"),
        ("Keep<br />this &amp; that<!-- not this -->", "Keep this & that"),
        ("== History ==\n* item one\n# item two", "History\nitem one\nitem two"),
        ("Text\n== See also ==\n* [[x]]\n== Life ==\nMore\n== References ==\n<ref>a</ref>", "Text\nLife\nMore"),
        ("Kept.\nDefine <math>\nx</math> and so on.\nKept too.", "Kept.\n\nKept too."),
        ("Pronounced ({{IPA|x}}; {{respell|y}}) so", "Pronounced so"),
    ],
)
def test_markup_becomes_what_a_reader_sees(markup, text):
    assert plain_text(markup) == text


def page(title, text, namespace=0, redirect=""):
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{len(title)}</id>{redirect}"
        f"<revision><id>1</id><text>{text}</text></revision></page>"
    )


def dump(path, *pages):
    body = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">' + "".join(pages) + "</mediawiki>"
    path.write_bytes(bz2.compress(body.encode()))
    return path


def test_articles_are_kept_and_everything_else_is_counted(tmp_path):
    body = "A sentence about the subject of the page. " * 60
    path = dump(
        tmp_path / "pages.bz2",
        page("Abacus", body),
        page("Talk:Abacus", body, namespace=1),
        page("Abaci", "#REDIRECT [[Abacus]]", redirect='<redirect title="Abacus" />'),
        page("Tiny", "Short."),
    )
    documents, rejects = read_pages(path)
    assert [(d.title, d.group, d.source) for d in documents] == [("Abacus", "Abacus", "eval_wiki")]
    assert documents[0].text.startswith("Abacus\n\nA sentence")
    assert rejects == {"not_an_article": 1, "redirect": 1, "stub": 1}


def test_a_damaged_dump_is_named(tmp_path):
    (tmp_path / "pages.bz2").write_bytes(b"nothing")
    with pytest.raises(AssetError, match="no readable MediaWiki dump"):
        read_pages(tmp_path / "pages.bz2")
