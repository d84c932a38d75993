"""What people read: the page needs nothing else and lies about nothing; the JSON is JSON."""

import json
import re
from html.parser import HTMLParser

import pytest

from stylograph.benchmark.report import markdown, write
from stylograph.benchmark.rows import Bench, Folder
from stylograph.benchmark.run import bench
from stylograph.benchmark.summary import summarise
from stylograph.benchmark.tasks import Task

from .kit import TASKS, brighten, judge_of, leave

SEEDS = tuple(range(40, 46))
NASTY = '<script>alert(1)</script> & "a" | b'
VOID = {"meta", "img", "br", "input", "line", "circle"}


class Balanced(HTMLParser):
    """Collects what does not fit: tags left open, and references to other places."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.places, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.places += [v for k, v in attrs if k in ("src", "href") and v]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.wrong.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def failing(case):
    raise ValueError(NASTY)


@pytest.fixture(scope="module")
def found(tiny, clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    tasks = [*TASKS, Task(NASTY, {"tint": ("red",)}, group="own & others")]
    return bench(
        out,
        methods=(brighten, leave, failing),
        tasks=tasks,
        seeds=SEEDS,
        judge=judge_of(tiny, SEEDS),
        generator=tiny,
        clip=clip,
        identity="none",
    )


@pytest.fixture(scope="module")
def page(found):
    return (found.folder.path / "report.html").read_text()


class TestPage:
    def test_it_is_well_formed_and_needs_nothing_else(self, page):
        parser = Balanced()
        parser.feed(page)
        assert (parser.open, parser.wrong) == ([], [])
        assert all(place.startswith("data:image/webp;base64,") or place == "bench.json" for place in parser.places)
        assert not re.search(r"https?://|@import|url\(", page)

    def test_what_others_wrote_is_text(self, page):
        assert "<script>" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "own &amp; others" in page

    def test_figures_are_there(self, page, found):
        figure = summarise(found).figures["brighten", "held out"]["success"]
        assert figure.mean == 1
        assert "100\u00a0%" in page
        assert "Everything as bright as can be." in page
        assert "Wilson" in page

    def test_failures_are_on_it(self, page):
        assert "3 rows came to nothing" in page

    def test_pictures_of_every_method(self, page):
        assert page.count("<div class='pair'>") + page.count('<div class="pair">') >= 6
        assert "not kept" not in page

    def test_without_pictures(self, found, tmp_path):
        """The sheets are gone: the page says so."""
        folder = Folder(tmp_path)
        folder.prepare()
        write(Bench(folder, found.world, found.rows, [], []))
        assert "picture not kept" in (tmp_path / "report.html").read_text()

    def test_of_nothing(self, tmp_path):
        folder = Folder(tmp_path)
        folder.prepare()
        write(Bench(folder, "w", [{**DOOMED}], [], []))
        assert "No finished rows yet" in (tmp_path / "report.html").read_text()


DOOMED = {
    "key": "k",
    "world": "w",
    "method": "m",
    "strength": "own",
    "control": False,
    "clip": {"name": "c", "digest": "d"},
    "task": {"sentence": "s", "group": "g"},
    "error": "ValueError: no",
    "made": {"stylograph": "0", "torch": "0", "python": "0", "machine": "", "system": "", "threads": 1, "cpus": 1},
}


def test_json_is_strict(found):
    def refuse(name):
        raise ValueError(name)

    told = json.loads((found.folder.path / "bench.json").read_text(), parse_constant=refuse)
    assert len(told["rows"]) == len(found.rows) == 5 * 3
    assert told["world"]["seeds"] == list(SEEDS)
    (row, *_) = [row for row in told["rows"] if row["method"] == "brighten"]
    assert len(row["pictures"]) == len(SEEDS)
    assert set(row["means"]) >= {"success", "clean", "leak", "drift"}
    assert row["made"]["torch"]


def test_markdown_tables_hold_together(found):
    lines = markdown(found, summarise(found)).splitlines()
    tables = [i for i, line in enumerate(lines) if set(line) == {"|", "-"}]
    assert len(tables) >= 4
    for i in tables:
        width = len(re.findall(r"(?<!\\)\|", lines[i]))
        j = i - 1
        while j < len(lines) and lines[j].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[j])) == width, lines[j]
            j += 1
