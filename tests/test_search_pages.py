"""The page of a search holds its trials and Optuna's figures, needs no network, and shows texts as texts."""

import html
import math
import re
import shutil
import subprocess

import made
import pytest
from drawn import nothing_to_warn_of  # noqa: F401  (a fixture of all tests here)
from test_pages import FLAGS, HOSTILE, charts, outside_of_plotly

from visage_mlflow.pages import optuna_figures
from visage_mlflow.pages import search as search_pages


def rows(page):
    """The table's cells as a reader sees them, the head first."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)] for line in lines]


def titles(page):
    return [layout["title"]["text"] for _, layout in charts(page)]


@pytest.fixture(scope="module")
def page():
    return search_pages.page(made.search(), made.study())


# What is shown


def test_the_page_is_one_whole_document_named_after_model_and_study(page):
    title = "builtin:smollm2, study mixtures: 1 of 5 trials inside"
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n") and page.count("<html") == 1
    assert f"<title>{title}</title>" in page and f"<h1>{title}</h1>" in page


def test_the_table_has_all_trials_with_rows_settings_rates_and_reasons(page):
    head, *trials = rows(page)
    assert head == [
        "trial", "state", "harmful", "safe", "benign", "learning_rate",
        "ASR %", "over-refusal %", "nats per token", "margin", "inside", "check", "remark",
    ]  # fmt: skip
    assert [line[0] for line in trials] == ["0", "1", "2", "3", "4"]
    assert trials[2] == [
        "2", "complete", "30", "60", "30", "0.0002", "5.0 (≤ 5.0)", "10.0 (≤ 10.0)", "3.800", "+0.50", "yes", "holds",
        "",
    ]  # fmt: skip
    assert trials[3][6:] == ["97.5 (≤ 97.5)", "", "", "", "no", "", "ASR above 50 % at 2 checkpoints in a row"]
    assert trials[4][6:] == ["", "", "", "", "no", "", "out of memory"]


def test_the_best_trial_is_shaded_and_told_with_its_mixture_and_check(page):
    assert re.findall(r'<tr class="chosen"><td>(\d+)</td>', page) == ["2"]
    assert "Best: trial 2, 30 harmful + 60 safe + 30 benign rows, learning_rate 0.0002." in page
    assert "check of trial 2: 3 retrainings on prompts that no trial saw: ASR 2.5 % (spread 2.5, at most 9.5)" in page
    assert "at most 18.0): holds." in page


def test_where_none_is_inside_the_nearest_is_told_as_such():
    result = made.search([made.trial(0, 80.0), made.trial(1, 60.0)], best=None, nearest=1)
    page = search_pages.page(result, made.study(()))
    assert "No trial is inside. Nearest to the limits: trial 1, 30 harmful" in page and "Best:" not in page
    assert re.findall(r'<tr class="chosen"><td>(\d+)</td>', page) == ["1"]


def test_a_margin_has_its_interval_and_its_remark_and_an_open_one_is_a_lower_bound():
    ends = {"margin_low": -0.26, "margin_high": 0.5}
    trials = [
        made.trial(0, margin=1.0, margin_is_open=True),
        made.trial(1, margin=-0.25),
        made.trial(2, margin=0.31, **ends, margin_remark="The ASR falls again."),
        made.trial(3, margin=0.31, **ends, margin_high_is_open=True),
    ]
    table = rows(search_pages.page(made.search(trials, best=0), made.study(())))[1:]
    assert [line[9] for line in table] == ["at least +1.0", "−0.25", "+0.3 (−0.3 to +0.5)", "+0 (−1 or more)"]
    assert [line[12] for line in table] == ["", "", "The ASR falls again.", ""]


def test_what_is_searched_and_what_is_inside_is_said(page):
    assert "Searched: safe 0..120, benign 30, learning_rate 0.0001..0.001." in page
    assert "an ASR of at most 10 % and an over-refusal of at most 20 %, both by their intervals" in page
    limited = search_pages.page(made.search(margin_min=0.3, utility_name="task_nll"), made.study(()))
    assert "upper ends, a margin of 0.3 or more." in limited and "held-out task answers" in limited


# Optuna's figures


HISTORY, IMPORTANCES, CONTOUR = "Optimization History Plot", "Hyperparameter Importances", "Contour Plot"
LINES = ["Slice Plot", "Parallel Coordinate Plot"]
ALL = [HISTORY, IMPORTANCES, CONTOUR, *LINES]
SIX = (3.8, 3.9, 3.7, 3.6, 3.95, 3.65)
FEW = {
    "empty": ((), {}, []),
    "one trial": ((3.8,), {}, []),
    "all pruned": ((None,) * 8, {}, []),
    "two trials": (SIX[:2], {}, [HISTORY, *LINES]),
    "five trials": (SIX[:5], {}, [HISTORY, *LINES]),
    "all outside": (SIX, {"inside": False}, ALL),
    "one setting": (SIX, {"vary": ("safe",)}, [HISTORY, IMPORTANCES, *LINES]),
    "two settings": (SIX, {"vary": ("safe", "lora_rank")}, ALL),
    "no setting": (SIX, {"vary": ()}, [HISTORY]),
    "infinite values": ((3.8, math.inf, math.inf, math.inf), {}, []),
    "as made": ((3.9, 3.7, 3.8, None, 3.85, math.inf, 3.95, 3.72, 3.6), {}, ALL),
    "three objectives": ((3.9, 3.7, 3.8, None, 3.85, 3.75, 3.95), {"objectives": 3}, [*ALL, "Pareto-front Plot"]),
    "three objectives, one trial": ((3.8,), {"objectives": 3}, []),
}


@pytest.mark.parametrize(("utilities", "how", "names"), FEW.values(), ids=FEW)
def test_what_a_study_is_enough_for_is_drawn_and_nothing_else(utilities, how, names):
    figures = optuna_figures.figures_of(made.study(utilities, **how))
    assert [figure.layout.title.text for figure in figures] == names


def test_drawing_a_study_leaves_no_trace():
    study = made.study()
    before = len(study.trials), study.trials[0].user_attrs
    optuna_figures.figures_of(study)
    assert (len(study.trials), study.trials[0].user_attrs) == before


@pytest.mark.parametrize("objectives", [1, 3])
def test_the_history_is_of_utility_over_the_numbers_of_the_study_and_trials_outside_are_no_best(objectives):
    def history(inside):
        study = made.study((3.9, None, 3.7, 3.8), objectives=objectives, inside=inside)
        return {one.name: one for one in optuna_figures.figures_of(study)[0].data}

    inside, outside = history(True), history(False)
    found = inside["utility (nats per token)"]
    assert list(zip(found.x, found.y, strict=True)) == [(0, 3.9), (2, 3.7), (3, 3.8)]
    assert list(inside["Best Value"].y) == [3.9, 3.9, 3.7, 3.7]
    assert list(outside["Infeasible Trial"].y) == [3.9, 3.7, 3.8] and not outside["utility (nats per token)"].y
    assert not any(map(math.isfinite, outside["Best Value"].y))


def test_a_search_for_a_front_which_has_no_limits_says_what_is_inside_by_its_notes():
    study = made.study(objectives=3, inside=None)
    for trial, is_inside in zip(study.get_trials(deepcopy=False), [True, False] * 4, strict=True):
        trial.user_attrs["inside"] = is_inside
    history, *_, front = optuna_figures.figures_of(study)
    found = {one.name: list(one.x) for one in history.data}
    assert (found["utility (nats per token)"], found["Infeasible Trial"]) == ([0, 2, 4, 6], [1, 5, 7])
    scene = front.layout.scene
    names = [axis.title.text for axis in (scene.xaxis, scene.yaxis, scene.zaxis)]
    assert names == ["ASR (%)", "over-refusal (%)", "utility (nats per token)"]


def test_the_contour_is_over_the_two_settings_that_matter_most():
    figures = {figure.layout.title.text: figure for figure in optuna_figures.figures_of(made.study())}
    contour = figures[CONTOUR].layout
    importances = figures[IMPORTANCES].data[0]
    most = sorted(zip(importances.x, importances.y, strict=True))[-2:]
    assert {contour.xaxis.title.text, contour.yaxis.title.text} == {name for _, name in most}


def test_no_text_of_a_user_is_in_the_copy_that_is_drawn():
    study = made.study()
    copy = optuna_figures.copied(study)
    assert all(trial.user_attrs == {} for trial in copy.trials)
    assert [trial.number for trial in copy.trials] == [trial.number for trial in study.trials]
    assert [trial.values for trial in copy.trials if trial.values] == [t.values for t in study.trials if t.values]
    assert all(trial.constraints == {"asr": -1.0} for trial in copy.trials if trial.values)


def test_a_study_without_trials_has_a_page_without_figures_and_table():
    page = search_pages.page(made.search((), best=None, nearest=None, front=()), made.study(()))
    assert charts(page) == [] and "No trial is inside." in page and "<table" not in page
    assert len(page) < 10_000


def test_the_same_search_gives_the_same_page(page):
    assert search_pages.page(made.search(), made.study()) == page
    assert titles(page) == ALL


# What must not happen


def test_nothing_is_fetched_plotly_is_there_once_and_nothing_can_be_uploaded(page):
    own = outside_of_plotly(page)
    assert not re.findall(r"<(?:link|img|iframe|object|embed|base)\b|\bsrc\s*=|\bhref\s*=|https?:", own)
    assert "default-src 'none'" in own and own.index("Content-Security-Policy") < own.index("<script")
    assert own.count('"showSendToCloud": false') == 5 and len(page) < 6_000_000


def test_no_note_of_the_study_is_in_the_page(page):
    # Each of its trials has the attribute "reason", with an image's tag in it.
    assert "onerror" not in outside_of_plotly(page)


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
    result = made.search(best=None, leading=2, checks=(made.check(asr_upper=21.0),))
    page = search_pages.page(result, made.study(()))
    assert "does not hold, its upper end misses the limit of ASR by 11.0." in page
    assert "No check holds. Nearest to the limits: trial 2" in page and "Best:" not in page
