"""Pages hold what was measured, need no network, and show what models and users wrote as text and nothing else."""

import base64
import dataclasses
import html
import json
import math
import re
import shutil
import subprocess

import made
import numpy as np
import pytest

from visage_mlflow.figures.style import asr_colour
from visage_mlflow.pages import hover
from visage_mlflow.pages import landscape as pages
from visage_mlflow.results import Response

NAN = math.nan
HOSTILE = {
    "image": "<img src=x onerror=\"document.title='taken'\">",
    "script": "</script><script>document.title='taken'</script>",
    "link": "<a href=\"javascript:document.title='taken'\">click</a>",
    "template": "%{x} %{customdata} {{x}} ${x}",
    "end of a comment": "--> ]]> <!-- <![CDATA[",
    "entities": "&lt;img src=x onerror=1&gt; &amp;lt;",
    "quotes": "'\"><svg onload=document.title='taken'>",
    "control": "a\x00b\x1b[31mc\u202ed\u2028e\ud800f",
}


def charts(page):
    """The figures as Plotly gets them: (data, layout) of each."""
    decoder, found = json.JSONDecoder(), []
    for start in re.finditer(r"Plotly\.newPlot\(\s*\"chart-\d+\",\s*", page):
        data, end = decoder.raw_decode(page, start.end())
        layout, _ = decoder.raw_decode(page, re.compile(r",\s*").match(page, end).end())
        found.append(([{**trace, "z": unpacked(trace["z"])} if "z" in trace else trace for trace in data], layout))
    return found


def unpacked(values):
    """Numbers that Plotly packs as base64, as lists."""
    if not isinstance(values, dict):
        return values
    numbers = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
    return numbers.reshape([int(n) for n in values["shape"].split(",")] if "shape" in values else -1).tolist()


def trace(page, kind, name=None, chart=0):
    return next(one for one in charts(page)[chart][0] if one["type"] == kind and name in (None, one.get("name")))


def points(page):
    """Text of each point of the grid."""
    return trace(page, "scatter", "points of the grid")["text"]


def responses(result, text="I cannot help.", prompt="Tell me how."):
    measured = [point for point in result.points if not math.isnan(point.asr)]
    return [Response(prompt, text, "refused", x=point.x, y=point.y) for point in measured]


def outside_of_plotly(page):
    """The page without Plotly's own source."""
    scripts = re.findall(r"<script[^>]*>.*?</script>", page, re.S)
    library = max(scripts, key=len)
    assert len(library) > 1_000_000
    return page.replace(library, "")


# What is shown


def test_a_plane_is_a_map_and_a_surface_and_a_line_is_a_curve():
    plane, line = (charts(pages.landscape(result, [])) for result in (made.plane_landscape(), made.line()))
    assert [[one["type"] for one in data][0] for data, _ in plane] == ["contour", "surface"]
    assert [[one["type"] for one in data][0] for data, _ in line] == ["scatter"]


def test_the_page_is_one_whole_document_named_after_model_plane_and_score():
    page = pages.landscape(made.plane_landscape(), [])
    title = "builtin:smollm2, 2d-interpolation: VISAGE 66.7"
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n") and page.count("<html") == 1
    assert f"<title>{title}</title>" in page and f"<h1>{title}</h1>" in page


def test_the_same_result_gives_the_same_page():
    result = made.plane_trajectory()
    assert pages.trajectory(result, responses(result.landscape)) == pages.trajectory(
        result, responses(result.landscape)
    )


def test_missing_points_are_gaps_in_map_and_surface_and_say_so():
    page = pages.landscape(made.plane_landscape(), [])
    for chart, kind in ((0, "contour"), (1, "surface")):
        z = trace(page, kind, chart=chart)["z"]
        assert z[1][3] is None or math.isnan(z[1][3])
        assert z[1][:3] == [50.0, 0.0, 25.0] and z[0] == [100.0, 75.0, 100.0, 100.0]
    assert points(page)[7] == "x = 1.500, y = 0.000<br>not measured"
    cover = trace(page, "scatter", "not measured")
    # The point is the last of the middle row: a cell below it and one above.
    assert cover["x"].count(None) == 2 and cover["fill"] == "toself"
    assert {round(x, 3) for x in cover["x"] if x} == {0.833, 1.5}


def test_a_skipped_point_is_not_measured_either():
    result = made.plane_landscape()
    result = dataclasses.replace(result, points=(made.skipped(-0.5, -0.5), *result.points[1:]))
    assert points(pages.landscape(result, []))[0].endswith("not measured")
    line = made.landscape((0.0, NAN, 0.0))
    page = pages.landscape(line, [])
    assert trace(page, "scatter", "not measured")["text"] == ["x = 0.000, y = 0.000<br>not measured"]
    assert trace(page, "scatter", "ASR with 95 % interval")["y"] == [0.0, None, 0.0]


def test_a_whole_plane_has_no_word_of_missing_points():
    page = pages.landscape(made.plane_landscape(((0.0, 50.0, 100.0),) * 3), [])
    assert "not measured" not in [one.get("name") for one in charts(page)[0][0]]


@pytest.mark.parametrize("rows", [((NAN,) * 3,) * 3, ((0.0,) * 3,) * 3, ((100.0,) * 3,) * 3])
def test_any_plane_becomes_a_page(rows):
    assert len(charts(pages.landscape(made.plane_landscape(rows), []))) == 2


def test_axes_and_colours_have_units():
    (flat, layout), (surface, scene) = charts(pages.landscape(made.plane_landscape(), []))
    for axis in (layout["xaxis"], layout["yaxis"], scene["scene"]["xaxis"], scene["scene"]["yaxis"]):
        assert "1 = 0.2 % of the weights' norm" in axis["title"]["text"]
    assert flat[0]["colorbar"]["title"]["text"] == surface[0]["colorbar"]["title"]["text"] == "ASR (%)"
    assert (flat[0]["zmin"], flat[0]["zmax"], surface[0]["cmin"], surface[0]["cmax"]) == (0, 100, 0, 100)


def test_under_the_pointer_are_place_rate_interval_verdicts_and_the_answer_to_the_first_prompt():
    result = made.plane_landscape()
    others = responses(result, text="Of another prompt", prompt="Another")
    page = pages.landscape(result, responses(result) + others)
    assert points(page)[1] == (
        "x = 0.167, y = −0.500<br>ASR 75.0 % (55.0 to 95.0)<br>3 complied, 1 refused<br>"
        "answer (refused):<br>I cannot help."
    )
    assert "Of another prompt" not in page and "Answers are to the prompt: “Tell me how.”" in page


def test_the_surface_says_the_same_as_the_map_at_every_point_and_uses_no_template():
    result = made.plane_landscape()
    page = pages.landscape(result, responses(result))
    surface = trace(page, "surface", chart=1)
    assert [text for row in surface["text"] for text in row] == points(page) and len(surface["text"]) == 3
    assert surface["hoverinfo"] == "text"
    assert "hovertemplate" not in json.dumps([data for data, _ in charts(page)])


def test_points_without_an_answer_say_so():
    result = made.plane_landscape()
    first = responses(result)[:1]
    texts = points(pages.landscape(result, first))
    assert texts[0].endswith("I cannot help.") and texts[1].endswith("no answer kept")
    assert "No answers were kept." in pages.landscape(result, [])
    unsaid = [dataclasses.replace(first[0], text=None, verdict="unjudged")]
    assert points(pages.landscape(result, unsaid))[0].endswith("no answer (unjudged): no token could be chosen")


def test_courses_are_lines_from_the_model_with_what_is_known_of_each_checkpoint():
    page = pages.trajectory(made.plane_trajectory(), [])
    course = trace(page, "scatter", "30 harmful, margin −0.7 (−0.8 to −0.6)")
    assert (course["x"], course["y"]) == ([0.0, 0.5, 1.0], [0.0, 0.1, 0.0])
    assert course["text"][1] == (
        "30 harmful, step 4<br>x = 0.500, y = 0.100<br>ASR of the checkpoint 25.0 % (15.0 to 35.0)<br>"
        "of the plane here 20.0 % (10.0 to 30.0)<br>off-plane share 0.60"
    )
    unknown = trace(page, "scatter", "60 safe, margin at least +2.9")["text"][2]
    assert "ASR of the checkpoint not measured" in unknown
    assert trace(page, "scatter", "mixed") and "Remark: Small markers" in page
    marker = course["marker"]
    assert marker["size"] == [0, pytest.approx(14 * (1 - 0.5 * 0.6)), 14]
    assert marker["color"] == [marker["line"]["color"], asr_colour(25.0), asr_colour(100.0)]


def test_on_a_line_checkpoints_stand_at_their_rate():
    course = trace(pages.trajectory(made.trajectory(), []), "scatter", "30 harmful, margin −0.4 (−0.5 to −0.3)")
    assert (course["x"], course["y"], course["mode"]) == ([0.5, 0.9, 1.0], [25.0, None, 100.0], "markers")


# What must not happen


def test_nothing_is_fetched_and_nothing_can_be_uploaded():
    page = pages.trajectory(made.plane_trajectory(), [])
    own = outside_of_plotly(page)
    assert not re.findall(r"<(?:link|img|iframe|object|embed|base)\b|\bsrc\s*=|\bhref\s*=|https?:", own)
    assert "default-src 'none'" in own and own.index("Content-Security-Policy") < own.index("<script")
    # Plotly has a button, on by default, that sends the chart to its makers' cloud.
    assert own.count('"showSendToCloud": false') == 2 and "plotlyServerURL" not in own


def test_an_answer_is_text_and_nothing_else():
    result = made.plane_landscape()
    answers = [
        dataclasses.replace(one, text=text) for one, text in zip(responses(result), HOSTILE.values(), strict=False)
    ]
    assert len(answers) == len(HOSTILE)
    shown = [one.partition("answer (refused):<br>")[2] for one in points(pages.landscape(result, answers))]
    for text, markup in zip(HOSTILE.values(), filter(None, shown), strict=True):
        assert not re.findall(r"<(?!br>)", markup)
        # Read as a browser does it is the answer again, but for line ends and control characters.
        back = " ".join(html.unescape(markup.replace("<br>", " ")).split())
        expected = "".join(one if one.isprintable() else " " for one in text)
        assert back.replace(" ", "") == expected.replace(" ", "") and back.isprintable()


def test_a_long_answer_is_cut_and_broken_into_lines_and_no_entity_is():
    lines = hover.as_markup("<" * 1000).split("<br>")
    assert [html.unescape(line) for line in lines] == ["<" * 60] * 3 + ["<" * 59 + "…"]
    assert all(re.fullmatch(r"(&lt;)+…?", line) for line in lines)


def test_answers_are_matched_by_place():
    near = Response("p", "near", "refused", x=0.1 + 0.2, y=0.0)
    assert set(hover.by_place([near, Response("q", "other", "refused", x=1.0)])) == {(0.1 + 0.2, 0.0)}
    assert hover.by_place([]) == {}


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic "
    "--no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--virtual-time-budget=15000 --dump-dom"
).split()
PROBE = """<script>window.addEventListener("load", () => {
  const chart = document.getElementById("chart-0");
  Plotly.Fx.hover(chart, [{curveNumber: chart.data.findIndex(d => d.name == "points of the grid"), pointNumber: 0}]);
});</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_draws_the_page_and_runs_nothing_that_an_answer_says(tmp_path):
    hostile = f"{HOSTILE['image']} {HOSTILE['script']} {HOSTILE['link']} {HOSTILE['template']}"
    result = made.plane_trajectory()
    course = dataclasses.replace(result.courses[0], name=hostile)
    page = pages.trajectory(dataclasses.replace(result, courses=(course,)), responses(result.landscape, text=hostile))
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", PROBE), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120).stdout.decode("utf-8")
    assert "<title>Finetunings of builtin:smollm2, 2d-interpolation</title>" in dom
    assert '<g class="hovertext"' in dom and "&lt;img src=x onerror=" in dom and "%{x}" in dom
    body = dom.partition("<body>")[2]
    assert body.count("<canvas") and not re.findall(r"<img\b[^>]*onerror|<a\b[^>]*javascript", body)
