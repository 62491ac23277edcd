"""The files of pages, read by a parser of HTML: whatever others write, they have the same elements and attributes."""

import dataclasses
from html.parser import HTMLParser

import made
import pytest

from visage_mlflow.pages import landscape as pages
from visage_mlflow.pages import search as search_pages
from visage_mlflow.results import Mark, Response

HOSTILE = "\u2028".join(
    (
        "<script>steal()</script>",
        "</script><script>steal()</script>",
        "</title></h1></p></td><img src=x onerror=steal()>",
        "\"'&><svg/onload=steal()>",
        "<a href='javascript:steal()'>x</a>",
        "javascript:steal()",
        "--><!--[if IE]>",
        "]]> <![CDATA[",
        "%{x} %{customdata} {{x}} ${x}",
        "&lt;script&gt;&#60;script&#62;",
        "\x00\x1b[2J\u202e\ud800",
    )
)


class Elements(HTMLParser):
    """Each element with its attributes, and what stands in scripts."""

    def __init__(self):
        super().__init__()
        self.found, self.scripts, self.in_script = [], [], False

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(attrs)))
        self.in_script = tag == "script"

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_comment(self, data):
        self.found.append(("comment", data))

    def handle_data(self, data):
        if self.in_script:
            self.scripts.append(data)


def landscape_of(words):
    result = made.plane_landscape()
    axis = dataclasses.replace(result.axes[0], to=words)
    setup = dataclasses.replace(made.setup(words), prompts=words, judge=words)
    return dataclasses.replace(
        result, plane=words, setup=setup, axes=(axis, result.axes[1]), marks=(Mark(words, 0.2, 0.2),)
    )


def answers_of(words):
    return [Response(words, words, words, words, point.x, point.y) for point in made.plane_landscape().points]


def landscape_page(words):
    return pages.landscape(landscape_of(words), answers_of(words))


def trajectory_page(words):
    result = made.plane_trajectory(remark=words)
    courses = tuple(dataclasses.replace(course, name=words) for course in result.courses)
    result = dataclasses.replace(result, landscape=landscape_of(words), courses=courses)
    return pages.trajectory(result, answers_of(words))


def search_page(words):
    failed = made.trial(1, state="failed", reason=words, uri=words, run=words)
    trials = [made.trial(0, reason=words, params={words: 1.0}), failed]
    names = {"study": words, "model": words, "utility_name": words, "space": {words: words}}
    return search_pages.page(made.search(trials, best=0, **names), made.study((3.8, 3.9)))


@pytest.mark.parametrize("page", [landscape_page, trajectory_page, search_page])
def test_what_others_write_adds_no_element_no_attribute_and_no_script_to_a_file(page, tmp_path):
    read = {}
    for name, words in (("plain", "words"), ("hostile", HOSTILE)):
        file = tmp_path / f"{name}.html"
        file.write_text(page(words), encoding="utf-8")
        read[name] = Elements()
        read[name].feed(file.read_text(encoding="utf-8"))
    assert read["hostile"].found == read["plain"].found
    for script in read["hostile"].scripts:
        if "steal()" in script:  # A chart's own texts, as JSON.
            assert not {"<", "\u2028", "\u2029", "\x00", "\x1b", "\u202e"} & set(script)


def test_the_hostile_text_is_really_in_those_files_as_text():
    for page in (landscape_page, trajectory_page, search_page):
        assert "steal()" in page(HOSTILE)
