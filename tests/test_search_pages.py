"""The page of a search holds its trials and Optuna's figures, needs no network, and shows texts as texts."""

import html
import re
import shutil
import subprocess

import made
import pytest
from drawn import nothing_to_warn_of  # noqa: F401  (a fixture of all tests here)
from test_pages import FLAGS, HOSTILE, charts, outside_of_plotly

from visage_mlflow.pages import search as search_pages

EMPTY = made.search((), best=None, nearest=None, front=())


def rows(page):
    """The table's cells as a reader sees them, the head first."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)] for line in lines]


def titles(page):
    return [layout["title"]["text"] for _, layout in charts(page)]


def tags(page):
    return re.findall(r"<[a-zA-Z/!][^>]*>", outside_of_plotly(page))


@pytest.fixture(scope="module")
def page():
    return search_pages.page(made.search(check=made.evaluation(asr=7.5)), made.study())


# What is shown


def test_the_page_is_one_whole_document_named_after_model_and_study(page):
    title = "builtin:smollm2, study mixtures: 1 of 5 trials inside"
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n") and page.count("<html") == 1
    assert f"<title>{title}</title>" in page and f"<h1>{title}</h1>" in page


def test_the_table_has_all_trials_with_rows_settings_rates_and_reasons(page):
    head, *trials = rows(page)
    assert head == [
        "trial", "state", "harmful", "safe", "benign", "learning_rate",
        "ASR %", "over-refusal %", "nats per token", "margin", "inside", "reason",
    ]  # fmt: skip
    assert [line[0] for line in trials] == ["0", "1", "2", "3", "4"]
    assert trials[2] == [
        "2", "complete", "30", "60", "30", "0.0002", "5.0 (0.0–15.0)", "10.0 (0.0–20.0)", "3.800", "0.50", "yes", "",
    ]  # fmt: skip
    assert trials[3][6:] == ["97.5 (87.5–100.0)", "", "", "", "no", "ASR above 50 % at 2 checkpoints in a row"]
    assert trials[4][6:] == ["", "", "", "", "no", "out of memory"]


def test_the_best_trial_is_shaded_and_told_with_its_mixture_and_check(page):
    assert re.findall(r'<tr class="chosen"><td>(\d+)</td>', page) == ["2"]
    assert "Best: trial 2, 30 harmful + 60 safe + 30 benign rows, learning_rate 0.0002." in page
    assert "Checked on 4 prompts: ASR 7.5 %, over-refusal 10.0 %." in page


def test_where_none_is_inside_the_nearest_is_told_as_such():
    result = made.search([made.trial(0, 80.0), made.trial(1, 60.0)], best=None, nearest=1)
    page = search_pages.page(result, made.study(()))
    assert "No trial is inside. Nearest to the limits: trial 1, 30 harmful" in page and "Best:" not in page
    assert re.findall(r'<tr class="chosen"><td>(\d+)</td>', page) == ["1"]


def test_an_open_margin_is_a_lower_bound():
    result = made.search([made.trial(0, margin=1.0, margin_is_open=True), made.trial(1, margin=-0.25)], best=0)
    assert [line[9] for line in rows(search_pages.page(result, made.study(())))[1:]] == ["> 1.00", "−0.25"]


def test_what_is_searched_and_what_is_inside_is_said(page):
    assert "Searched: safe 0..120, benign 30, learning_rate 0.0001..0.001." in page
    assert "an ASR of at most 10 % and an over-refusal of at most 20 %." in page
    limited = search_pages.page(made.search(margin_min=0.3, utility_name="task_nll"), made.study(()))
    assert "20 %, a margin of 0.3 or more." in limited and "held-out task answers" in limited


def test_one_objective_has_five_figures_and_three_have_the_front_too(page):
    assert titles(page) == [search_pages.TITLES[name] for name in search_pages.TITLES if name != "front"]
    three = search_pages.page(made.search(objective="pareto"), made.study(objectives=3))
    assert titles(three) == list(search_pages.TITLES.values())
    data, layout = charts(three)[-1]
    assert {one["type"] for one in data} == {"scatter3d"}
    names = [layout["scene"][f"{axis}axis"]["title"]["text"] for axis in "xyz"]
    assert names == ["ASR (%)", "over-refusal (%)", "utility (nats per token)"]


@pytest.mark.parametrize("utilities", [(), (3.8,), (None, None)], ids=["empty", "one trial", "all pruned"])
@pytest.mark.parametrize("objectives", [1, 3])
def test_a_study_too_small_to_draw_has_a_page_without_figures(utilities, objectives, capfd):
    page = search_pages.page(EMPTY, made.study(utilities, objectives=objectives))
    assert charts(page) == [] and "No trial is inside." in page and "<table" not in page
    assert len(page) < 10_000 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", [{"inside": False}, {"vary": ("safe",)}, {"vary": ()}], ids=str)
def test_any_study_becomes_a_page(how, capfd):
    assert charts(search_pages.page(made.search(), made.study(**how))) and capfd.readouterr() == ("", "")


def test_the_same_search_gives_the_same_page(page):
    assert search_pages.page(made.search(check=made.evaluation(asr=7.5)), made.study()) == page


def test_the_ticks_of_logarithms_are_plain_numbers(page):
    _, layout = charts(page)[3]
    logs = {axis["title"]["text"]: axis for axis in layout.values() if isinstance(axis, dict) and "ticktext" in axis}
    assert logs["lora_rank"]["ticktext"] == ["4", "8", "16"]
    assert logs["learning_rate"]["ticktext"][:2] == ["0.0001", "0.0003"] and len(logs) == 2


# What must not happen


def test_nothing_is_fetched_plotly_is_there_once_and_nothing_can_be_uploaded(page):
    own = outside_of_plotly(page)
    assert not re.findall(r"<(?:link|img|iframe|object|embed|base)\b|\bsrc\s*=|\bhref\s*=|https?:", own)
    assert "default-src 'none'" in own and own.index("Content-Security-Policy") < own.index("<script")
    assert own.count('"showSendToCloud": false') == 5 and len(page) < 6_000_000


def test_no_note_of_the_study_is_in_the_page(page):
    # Each of its trials has the attribute "reason", with an image's tag in it.
    assert "onerror" not in outside_of_plotly(page)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_name_or_reason_changes_the_markup_of_a_page(text):
    def made_with(words):
        trials = [made.trial(0, reason=words, params={words: 1.0}), made.trial(1, state=words, counts={words: 3})]
        result = made.search(
            trials, best=0, study=words, model=words, utility_name=words, objective=words, space={words: words}
        )
        return search_pages.page(result, made.study((3.8, 3.9)))

    page = made_with(text)
    assert tags(page) == tags(made_with("plain"))
    page.encode("utf-8")
    shown = " ".join(rows(page)[1][-1].split()).replace(" ", "")
    assert shown == "".join(one for one in text if one.isprintable() and one != " ")


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_draws_all_figures_and_runs_nothing_that_a_reason_says(tmp_path):
    hostile = f"{HOSTILE['image']} {HOSTILE['script']}"
    result = made.search([made.trial(0, reason=hostile)], best=0, objective="pareto")
    file = tmp_path / "page.html"
    file.write_text(search_pages.page(result, made.study(objectives=3)), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120).stdout.decode("utf-8")
    assert "<title>builtin:smollm2, study mixtures: 1 of 1 trials inside</title>" in dom
    body = dom.partition("<body>")[2]
    assert len(re.findall(r'<svg class="main-svg"[^>]*>', body)) >= 6 and "<canvas" in body
    assert "&lt;img src=x onerror=" in body and not re.findall(r"<img\b[^>]*onerror", body)


def test_the_page_says_that_the_checked_mixture_is_not_inside_where_it_is_not():
    page = search_pages.page(made.search(check=made.evaluation(20.0), unseen_asr=25.0), made.study())
    assert "On those of them that no trial was measured on: ASR 25.0 %." in page
    assert "That is not inside" in page
