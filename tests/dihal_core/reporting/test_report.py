import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import jinja2
import pytest

from dihal_core.profiles import load_study
from dihal_core.reporting.answer import build_answer
from dihal_core.reporting.formatting import interval_text, number
from dihal_core.reporting.page import page_of, tables_of
from dihal_core.reporting.pictures import pictures_of
from dihal_core.reporting.report import TEMPLATES_SHA256, build_report, render_html, templates_digest
from dihal_core.reporting.results import without_bulk

VOID = {"meta", "br", "link", "img", "input", "hr", "wbr", "path", "use", "rect"}
FORBIDDEN_WORDS = re.compile(r"\b(None|nan|NaN|inf|Undefined|undefined)\b")


class Page(HTMLParser):
    """Collects what a browser would see: attributes, ids, visible text, tables by their label; checks nesting."""

    def __init__(self, html: str):
        super().__init__()
        self.attributes, self.ids, self.text, self.stack = [], [], [], []
        self.tables: dict[str, list[list[str]]] = {}
        self.label, self.cell = None, None
        self.feed(html)
        assert self.stack == [], f"unclosed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.stack.append(tag)
        if values.get("role") == "region":
            self.label = values["aria-label"]
            self.tables[self.label] = []
        if tag == "tr" and self.label in self.tables:
            self.tables[self.label].append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.stack.pop() == tag
        if tag in ("td", "th"):
            if self.tables.get(self.label):
                self.tables[self.label][-1].append(" ".join(self.cell.split()))
            self.cell = None
        if tag == "table":
            self.label = None

    def handle_data(self, data):
        if "style" in self.stack or "title" in self.stack:
            return
        self.text.append(data)
        if self.cell is not None:
            self.cell += data


def forbidden_words(page):
    return [text for text in page.text if FORBIDDEN_WORDS.search(text) and "loss became NaN" not in text]


def html_of(results, **options):
    answer = build_answer(results)
    return render_html(page_of(results, answer, pictures_of(results), tables_of(results)), **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory, study):
    """One report, built once: (folder, counts, data, progress)."""
    data = study.make_data()
    context = study.make_context(tmp_path_factory.mktemp("report"), data)
    calls = []
    object.__setattr__(context, "progress", lambda done, total, unit: calls.append((done, total, unit)))
    counts = build_report(context)
    return context.store.path, counts, data, calls


@pytest.fixture(scope="module")
def html(built):
    return (built[0] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_report_loads_nothing_from_anywhere(html, page):
    for tag, name, value in page.attributes:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            local = value.startswith(("#", "data:"))
            citation = tag == "a" and value == "https://arxiv.org/abs/2605.14368"
            assert local or citation, f"{tag} {name}={value[:80]}"
    css = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in css
    assert "url(" not in css
    assert "default-src 'none'" in html


def test_the_page_is_well_formed_with_unique_ids_and_reachable_sections(page):
    assert len(page.ids) == len(set(page.ids))
    targets = [value[1:] for tag, name, value in page.attributes if tag == "a" and name == "href" and value[0] == "#"]
    assert len(targets) >= 12
    assert set(targets) <= set(page.ids)


def test_missing_values_are_dashes_and_never_words(page):
    assert forbidden_words(page) == []
    assert any("\u2013" in cell for row in page.tables["Validation losses per candidate layer"] for cell in row)


def test_the_first_lines_say_that_a_control_wins(html):
    head = html[: html.index('class="cards"')]
    assert "Read this first: a simple control wins" in head
    assert "order the layers better than the geometry score (Spearman 0.96, 0.95 and 0.99 against 0.81)" in head
    assert "the ridge map beats the diffusion bridge" in head
    assert "adds nothing beyond depth or norm" in head


def test_the_three_questions_stand_before_the_sections_with_their_numbers(html):
    cards = re.sub(r"<[^>]+>", " ", html[html.index('class="cards"') : html.index("<nav")])
    cards = " ".join(cards.split())
    for words in ("Where should diffusion enter?", "Layer 1 of 30", "probability 0.91", "layers 1\u20132",
                  "Did the geometry predict it?", "Spearman [0.60, 0.92]", "Best observed layer 1", "rank gap 0",
                  "28 of 29 layers", "How good is the hybrid?", "PPL 24.8 [23.6, 26.0]", "19,337 scored tokens",
                  "paper: Llama-3.1-8B-Instruct 3 32 0.09", "paper: Qwen3-8B 2 36 0.06"):  # fmt: skip
        assert words in cards
    assert "quantised" in html[: html.index('class="cards"')]


def test_shown_numbers_are_those_of_the_json(built, page):
    data = built[2]
    rows = {row[0]: row for row in page.tables["Likelihood on wiki-like pages"]}
    arms = data["evaluate"]["eval_wiki"]["arms"]
    assert rows["ridge map"][1:3] == [interval_text(arms["ridge"]["ppl"]), interval_text(arms["ridge"]["kl"])]
    assert rows["teacher"][2] == "\u2013"
    layers = {row[0]: row for row in page.tables["Geometry of every layer"]}
    for source in data["score"]["layers"][1:30]:
        assert layers[str(source["layer"])][3] == interval_text(source["score"], decimals=2)
    sweep = {row[0]: row for row in page.tables["Validation losses per candidate layer"]}
    assert sweep["7"][1] == "loss became NaN at step 11"
    assert sweep["12"][2] == number(data["sweep"][12]["arms"]["bridge"]["fvu"])


def test_every_table_is_offered_as_csv_and_equals_the_file_beside_it(built, page):
    folder = built[0]
    offered = {
        value: uri
        for (tag, name, value), (_, other, uri) in zip(page.attributes, page.attributes[1:], strict=False)
        if (tag, name, other) == ("a", "download", "href")
    }
    assert len(offered) >= 18
    for name, uri in offered.items():
        assert base64.b64decode(uri.partition(",")[2]) == (folder / "tables" / name).read_bytes()


def test_csv_files_hold_full_precision(built):
    folder, _, data, _ = built
    with open(folder / "tables" / "evaluation_heldout.csv", newline="") as handle:
        rows = {row["label"]: row for row in csv.DictReader(handle)}
    source = data["evaluate"]["heldout"]["arms"]["ridge"]
    assert [float(rows["ridge map"][f"ppl{end}"]) for end in ("", "_low", "_high")] == list(source["ppl"].values())
    assert rows["teacher"]["kl"] == ""


def test_the_answer_is_five_lines_and_the_same_everywhere(built, read_json):
    folder, counts, _, _ = built
    assert len(counts["answer"]) == 5
    assert read_json(folder / "study.json")["answer"]["lines"] == counts["answer"]


def test_study_json_is_complete_and_carries_no_time_or_place(built, read_json):
    folder, _, data, _ = built
    study = read_json(folder / "study.json")
    for name, block in data.items():
        expected = json.loads(json.dumps(without_bulk(block)))
        assert study["results"][name] == expected
    assert study["settings"] == load_study("quickstart").model_dump(mode="json")
    assert study["missing_layers"] == [7]
    assert study["failed_layers"] == {"7": "loss became NaN at step 11"}
    assert len(study["records"]) == 68
    assert all(len(record["digest"]) == 64 and "key" in record for record in study["records"])
    text = (folder / "study.json").read_text()
    assert str(folder.parent) not in text
    assert '"seconds"' not in text


def test_figures_lie_beside_the_report_as_png_and_svg(built):
    folder, counts, _, _ = built
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    assert names == {"geometry", "score", "sweep", "agreement", "predictors", "training", "evaluation"}
    assert names == {path.stem for path in (folder / "figures").glob("*.svg")}
    assert counts["figures"] == 7


def test_progress_reaches_its_total(built):
    calls = built[3]
    assert calls[-1][0] == calls[-1][1]
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)


def test_a_second_run_gives_the_same_study_and_figures_whatever_the_seconds(built, study, tmp_path):
    folder, _, data, _ = built
    context = study.make_context(tmp_path, data, seconds=99.0)
    (context.store.path / "figures").mkdir()
    (context.store.path / "figures" / "score.png").write_bytes(b"left by a killed run")
    build_report(context)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    changed = {
        name.as_posix() for name in files if (folder / name).read_bytes() != (context.store.path / name).read_bytes()
    }
    assert changed == {"report.html", "ledger.json", "tables/ledger.csv", "tables/stores.csv", "tables/cost.csv"}


def test_every_variable_of_the_template_exists_in_a_full_study(data, results_for):
    assert "</html>" in html_of(results_for(data), undefined=jinja2.StrictUndefined)


def test_a_bridge_and_score_that_win_are_said_to_without_a_warning(data, results_for):
    block = data["agreement"]["losses"]["fvu"]
    for name in ("depth", "minus_log_norm", "ridge_r2"):
        block["predictors"][name]["spearman"] = 0.1
    for found in block["partial"].values():
        found.update(value=0.6, low=0.3, high=0.8)
    for block in data["sweep"].values():
        if block["arms"].get("regressor"):
            block["arms"]["regressor"]["fvu"] = 2.0
    for evaluation in data["evaluate"].values():
        evaluation["differences"] = {
            "bridge@1 - ridge": {"kl": {"value": -0.2, "low": -0.3, "high": -0.1}, "nll": None}
        }
    html = html_of(results_for(data))
    head = html[: html.index('class="cards"')]
    assert "In short" in head
    assert "Read this first" not in head
    assert "the diffusion bridge beats the ridge map" in head


def test_hostile_names_are_shown_and_not_obeyed(data, results_for):
    hostile = data["corpus"]["sources"][1]["origin"]
    settings = load_study("quickstart", overrides={"backbone.name": hostile, "report.title": hostile})
    data["score"]["flags"] = [hostile]
    data["agreement"]["sentences"] = [hostile]
    data["evaluate"][hostile] = {**data["evaluate"]["heldout"], "set": hostile}
    values = {"failed_layers": {"7": hostile}, "study_name": hostile, "backbone_identity": {hostile: hostile}}
    html = html_of(results_for(data, settings=settings, values=values))
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    Page(html)


@pytest.mark.parametrize(
    "missing",
    [
        ("agreement",),
        ("score", "agreement"),
        ("sweep", "agreement", "replace", "evaluate"),
        ("corpus", "gates", "activations"),
    ],
)
def test_a_study_with_missing_stages_still_has_a_report(data, results_for, missing):
    page = Page(html_of(results_for({name: block for name, block in data.items() if name not in missing})))
    assert forbidden_words(page) == []
    assert any(name == "class" and value == "missing-note" for _, name, value in page.attributes)


def test_nulls_anywhere_in_the_results_are_dashes(data, results_for):
    empty = {"value": None, "low": None, "high": None}
    for block in data["evaluate"].values():
        block["arms"] = {
            arm: None if arm == "skip" else dict.fromkeys(block["arms"]["ridge"], empty) for arm in block["arms"]
        }
        block["differences"] = dict.fromkeys(block["differences"])
        block["conventions"] = dict.fromkeys(block["conventions"])
    for block in data["agreement"]["losses"].values():
        block.update(kendall=None, best_observed=None, rank_gap=None, regret=None)
    data["corpus"].update(overlap={}, separator=None, missing=[])
    data["replace"]["arms"] = dict.fromkeys(data["replace"]["arms"])
    page = Page(html_of(results_for(data)))
    assert forbidden_words(page) == []


def test_a_study_of_four_layers_has_a_report(data, results_for):
    keep = {0, 1, 2, 3, 4}
    score = data["score"]
    score["layers"] = [{**row, "candidate": 0 < row["layer"] < 4} for row in score["layers"] if row["layer"] in keep]
    score["layers"][-1].update(score=None, rank=None, selection_probability=None)
    score["candidate_layers"] = [1, 2, 3]
    data["sweep"] = {k: v for k, v in data["sweep"].items() if k < 4}
    data["agreement"]["points"] = [p for p in data["agreement"]["points"] if p["layer"] < 4]
    context = results_for(data, settings=load_study("smoke"), values={"failed_layers": {}})
    html = html_of(context)
    assert "over 3 of 3 layers" in html
    assert "Layers without a result" not in html


def test_a_changed_template_changes_the_key_of_the_report():
    assert templates_digest() == TEMPLATES_SHA256, (
        f"the templates changed: set TEMPLATES_SHA256 in dihal_core/reporting/report.py to {templates_digest()!r}, "
        "so that cached reports are made again"
    )


def test_csv_readers_agree_with_the_table_of_the_page(built, page):
    rows = list(csv.reader(io.StringIO((built[0] / "tables" / "rules.csv").read_text())))
    assert [row[0] for row in rows[1:]] == [row[0] for row in page.tables["Early, Middle, Late and the score"][1:]]
