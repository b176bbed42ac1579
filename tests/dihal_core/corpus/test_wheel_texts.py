import csv
import io
import json
import zipfile

import pytest

from dihal_core.corpus.wheel_texts import read_books, read_conversation, read_news, read_wiki, read_wikibooks
from dihal_core.errors import AssetError

STORY = "The council met on Tuesday to discuss the harbour. " * 10


def zipped_csv(path, name, rows):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, buffer.getvalue())
    return path


def article(number, text, title="A title"):
    return {"article_id": str(number), "publish_date": "2017/2/7", "title": title, "text": text}


def test_wiki_leads_carry_title_and_group(tmp_path):
    path = tmp_path / "summaries.json"
    path.write_text(json.dumps({"Abacus": {"title": "Abacus", "extract": "An abacus is a tool.", "topic": "x"}}))
    documents, rejects = read_wiki(path)
    assert [(d.id, d.text, d.source, d.group, d.title) for d in documents] == [
        ("Abacus", "An abacus is a tool.", "wiki", "Abacus", "Abacus")
    ]
    assert not rejects


def test_recipes_become_running_text_and_incomplete_ones_are_counted(tmp_path):
    soup = {
        "title": "Soup",
        "servings": "4",
        "time": None,
        "ingredients": ["water", "salt"],
        "steps": ["Boil.", "Eat."],
    }
    path = tmp_path / "recipes.json"
    path.write_text(json.dumps({"Cookbook:Soup": soup, "Cookbook:Air": {**soup, "steps": []}}))
    documents, rejects = read_wikibooks(path)
    assert documents[0].text == "Soup\n\nServings: 4\n\nIngredients\n- water\n- salt\n\nProcedure\n1. Boil.\n2. Eat."
    assert rejects == {"incomplete_recipe": 1}


@pytest.mark.parametrize(
    "broken",
    ["G\ufffdran", "Schr?der spoke", 'work,"?he wrote', "a ?20 fee", 'Ms O"ullivan', "he said.- The end"],
)
def test_articles_with_destroyed_characters_are_turned_away(tmp_path, broken):
    path = zipped_csv(
        tmp_path / "n.zip", "NewsArticles.csv", [article(1, STORY + broken), article(2, STORY), article(3, "x")]
    )
    documents, rejects = read_news(path)
    assert [d.id for d in documents] == ["2"]
    assert documents[0].text.startswith("A title\n\nThe council")
    assert rejects == {"mojibake": 1, "stub": 1}


@pytest.mark.parametrize("healthy", ['"Why?" she asked.', "a well-known man", "Is it so? Yes.", "A $20-a-month plan"])
def test_ordinary_punctuation_is_no_damage(tmp_path, healthy):
    documents, _ = read_news(zipped_csv(tmp_path / "n.zip", "NewsArticles.csv", [article(1, STORY + healthy)]))
    assert len(documents) == 1


def test_speeches_of_one_debate_are_one_group(tmp_path):
    speech = {"date": "2015-10-12", "agenda": "Hate Speech", "speechnumber": "1", "speaker": "A B", "text": "I agree."}
    rows = [speech, {**speech, "speechnumber": "2"}, {**speech, "date": "2016-01-01"}]
    documents, _ = read_conversation(zipped_csv(tmp_path / "c.zip", "en.csv", rows))
    assert documents[0].text == "A B: I agree."
    assert documents[0].group == documents[1].group != documents[2].group
    assert len({d.id for d in documents}) == 3


def test_a_play_is_a_group_and_an_act_a_document_without_markup(tmp_path):
    (tmp_path / "hamlet.md").write_text(
        "# Hamlet\n\n## ACT I\n\n### SCENE I. A platform.\n\n_Enter GHOST_\n\n**GHOST**  \nMark me.\n\n\n\n## ACT II\n\n**HAMLET**  \nI will.\n"
    )
    documents, _ = read_books(tmp_path)
    assert [d.text for d in documents] == [
        "Hamlet\nACT I\n\nSCENE I. A platform.\n\nEnter GHOST\n\nGHOST\nMark me.",
        "Hamlet\nACT II\n\nHAMLET\nI will.",
    ]
    assert {d.group for d in documents} == {"hamlet"}


def test_a_damaged_asset_is_named(tmp_path):
    path = tmp_path / "summaries.json"
    path.write_text("{")
    with pytest.raises(AssetError, match="run `dihal setup`"):
        read_wiki(path)
    (tmp_path / "n.zip").write_bytes(b"no zip")
    with pytest.raises(AssetError, match="NewsArticles"):
        read_news(tmp_path / "n.zip")
