"""A search's figures show each trial for what it is, and what was not measured is counted, not drawn."""

import math

import made
import matplotlib
import numpy as np
import optuna
import pytest
from drawn import labels, nothing_to_warn_of, points_of, saved  # noqa: F401  (a fixture of all tests here)
from matplotlib import pyplot
from matplotlib.colors import to_rgba

from visage_mlflow.figures import optuna as optuna_figures
from visage_mlflow.figures import optuna_looks
from visage_mlflow.figures import search as search_plots

NAN = math.nan
NOTHING = {"best": None, "nearest": None, "front": ()}
FAILED = made.trial(9, NAN, NAN, NAN, state="failed", reason="out of memory")
EDGE_CASES = {
    "as made": made.search(),
    "no trials": made.search((), **NOTHING),
    "all failed": made.search([FAILED], **NOTHING),
    "one trial": made.search([made.trial(0)], best=0, nearest=0, front=(0,)),
    "no best": made.search([made.trial(0, 80.0), made.trial(1, 60.0)], best=None, nearest=1, front=(1,)),
    "no ASR anywhere": made.search([made.trial(0, NAN, NAN, NAN), made.trial(1, NAN)], **NOTHING),
    "nothing but the ASR": made.search([made.trial(0, 5.0, NAN, NAN)], best=None, nearest=0, front=()),
    "all pruned": made.search([made.trial(n, 90.0, state="pruned") for n in range(3)], best=None, nearest=2, front=()),
    "no rows": made.search([made.trial(0, counts={"harmful": 0, "safe": 0})], best=0, nearest=0, front=(0,)),
    "all the same": made.search([made.trial(n) for n in range(3)], best=0, nearest=0, front=(0, 1, 2)),
    "everything at its end": made.search([made.trial(0, 0.0, 0.0, 0.0), made.trial(1, 100.0, 100.0, 9.0)], best=0),
    "no limit": made.search(max_asr=100.0, max_over_refusal=100.0),
    "limits at zero": made.search(max_asr=0.0, max_over_refusal=0.0, best=None),
}


def series(axes):
    """Legend label without the count -> (x, y) of the trials that look so."""
    found = {}
    for bars in axes.containers:
        name, _, count = bars.get_label().rpartition(" (")
        found[name] = bars[0].get_xydata().tolist()
        assert len(found[name]) == int(count.rstrip(")"))
    return found


def ring(axes):
    """Where the hollow circle around the chosen trial is."""
    return [tuple(line.get_xydata()[0]) for line in axes.get_lines() if line.get_markersize() == 14]


def remark(figure):
    (legend,) = figure.legends
    return legend.get_title().get_text()


@pytest.mark.parametrize("result", EDGE_CASES.values(), ids=EDGE_CASES)
@pytest.mark.parametrize("draw", [search_plots.safe_share, search_plots.front])
def test_any_search_can_be_drawn(result, draw):
    saved(draw(result))


# Over the safe share


def test_each_trial_stands_at_its_safe_share_with_its_rates():
    # 0, 30, 60 and 90 safe rows beside 30 others are 0, 50, 66.7 and 75 %.
    trials = [
        made.trial(n, asr, n, counts={"harmful": 30, "safe": 30 * n}) for n, asr in enumerate((80.0, 60.0, 9.0, 4.0))
    ]
    upper, lower = saved(search_plots.safe_share(made.search(trials, best=3)))
    assert series(upper) == {
        "inside": [[pytest.approx(200 / 3), 9.0], [75.0, 4.0]],
        "outside: ASR too high": [[0.0, 80.0], [50.0, 60.0]],
    }
    assert series(lower)["inside"] == [[pytest.approx(200 / 3), 2.0], [75.0, 3.0]]
    assert lower.get_xlabel() == "safe rows as a share of all rows of the mixture (%)"


def test_a_trial_outside_says_which_limit_it_breaks_first():
    trials = [
        made.trial(0, 5.0, 10.0),
        made.trial(1, 11.0, 90.0),
        made.trial(2, 5.0, 30.0),
        made.trial(3, 10.0, 20.0, margin=0.1, inside=False),
        made.trial(4, 5.0, NAN),
    ]
    upper, _ = saved(search_plots.safe_share(made.search(trials, best=0, margin_min=0.3)))
    assert {name: [y for _, y in xy] for name, xy in series(upper).items()} == {
        "inside": [5.0],
        "outside: ASR too high": [11.0],
        "outside: refuses too many ordinary prompts": [5.0],
        "outside: margin below 0.3": [10.0],
        "outside: a limit was not measured": [5.0],
    }


def test_pruned_trials_are_hollow_and_others_filled():
    upper, _ = saved(search_plots.safe_share(made.search()))
    faces = {bars.get_label(): to_rgba(bars[0].get_markerfacecolor()) for bars in upper.containers}
    hollow = {label for label, face in faces.items() if face == to_rgba("white")}
    assert hollow == {"pruned: as its last checkpoint was (1)"}
    assert series(upper)["pruned: as its last checkpoint was"] == [[50.0, 97.5]]


def test_failed_and_unmeasured_trials_are_counted_and_not_drawn():
    trials = [made.trial(0), FAILED, made.trial(2, NAN), made.trial(3, 50.0, state="running")]
    trials += [made.trial(4, NAN, state="waiting", counts={}), made.trial(5, NAN, state="failed")]
    for draw in (search_plots.safe_share, search_plots.front):
        panels = saved(draw(made.search(trials, best=0, front=(0,))))
        said = [label.replace("\n", " ") for label in labels(panels[0])]
        assert "not drawn: 1 complete (not measured in full), 2 failed, 1 running, 1 waiting" in said
        assert all(len(points_of(axes) - {(0.0, 0.0)}) == 1 for axes in panels)
        assert not any("not drawn" in label for label in labels(saved(draw(made.search([made.trial()], best=0)))[0]))


def test_the_limits_are_lines_and_the_legend_says_both():
    upper, lower = saved(search_plots.safe_share(made.search(max_asr=12.5, max_over_refusal=30.0)))
    dashed = [[line.get_ydata()[0] for line in axes.get_lines() if line.get_ls() == "--"] for axes in (upper, lower)]
    assert dashed == [[12.5], [30.0]] and "allowed: ASR to 12.5 %, over-refusal to 30 %" in labels(upper)


def test_error_bars_are_the_wilson_intervals():
    upper, lower = saved(search_plots.safe_share(made.search([made.trial(0, 40.0, 15.0)], best=None)))
    for axes, ends in ((upper, [30.0, 50.0]), (lower, [5.0, 25.0])):
        (bars,) = axes.containers
        assert bars[2][0].get_segments()[0][:, 1].tolist() == ends


def test_the_best_is_ringed_in_all_panels_and_named_with_its_mixture():
    figure = search_plots.safe_share(made.search())
    upper, lower = saved(figure)
    assert (ring(upper), ring(lower)) == ([(50.0, 5.0)], [(50.0, 10.0)]) and "best (trial 2)" in labels(upper)
    assert remark(figure) == "Ringed, best: 30 harmful + 60 safe + 30 benign rows, learning_rate 0.0002."
    (axes,) = saved(search_plots.front(made.search()))
    assert ring(axes) == [(3.8, 5.0)]


def test_where_none_is_inside_the_nearest_is_ringed_and_not_called_the_best():
    figure = search_plots.safe_share(EDGE_CASES["no best"])
    upper, _ = saved(figure)
    assert ring(upper) == [(50.0, 60.0)] and "nearest to the limits (trial 1)" in labels(upper)
    assert remark(figure).startswith("No trial is inside. Ringed, nearest to the limits: 30 harmful")


def test_the_title_names_model_harmful_rows_study_and_how_many_are_inside():
    upper, _ = saved(search_plots.safe_share(made.search()))
    assert upper.get_title() == "builtin:smollm2 finetuned with 30 harmful rows\nstudy mixtures: 1 of 5 trials inside"
    mixed = [made.trial(n, counts={"harmful": 10 * n, "safe": 5}) for n in (3, 1, 2)]
    assert "with 10–30 harmful rows" in saved(search_plots.safe_share(made.search(mixed)))[0].get_title()
    assert "rows" not in saved(search_plots.safe_share(EDGE_CASES["no trials"]))[0].get_title()


def test_nothing_measured_lies_outside_the_axes():
    trials = [made.trial(0, 100.0, 100.0, counts={"safe": 9}), made.trial(1, 0.0, 0.0, counts={"harmful": 9})]
    for axes in saved(search_plots.safe_share(made.search(trials, best=None))):
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert left < 0 and right > 100 and low < 0 and high > 100


# The front


def markers(axes):
    """(x, y, fill, edge) of each trial."""
    found = []
    for part in axes.collections:
        if hasattr(part, "get_sizes"):
            looks = zip(part.get_offsets(), part.get_facecolors(), part.get_edgecolors(), strict=True)
            found += [(*map(float, xy), tuple(fill), tuple(edge)) for xy, fill, edge in looks]
    return sorted(found)


def test_the_front_is_outlined_and_over_refusal_is_the_fill():
    (axes,) = saved(search_plots.front(made.search()))
    drawn = markers(axes)
    assert [(x, y) for x, y, *_ in drawn] == [(3.7, 80.0), (3.8, 5.0), (3.9, 5.0)]
    assert [edge == to_rgba("black") for *_, edge in drawn] == [True, True, False]
    colours = search_plots.OVER_REFUSAL_COLOURS
    # The most refused is 30 %, which is where the colours end.
    expected = [colours(0.0), colours(10 / 30), colours(1.0)]
    assert np.allclose([fill for *_, fill, _ in drawn], expected)


def test_an_over_refusal_that_is_not_known_is_white():
    (axes,) = saved(search_plots.front(made.search([made.trial(0, 5.0, NAN)], best=None)))
    assert markers(axes)[0][2] == to_rgba("white") and "white: over-refusal not measured" in labels(axes)
    assert not any(label.startswith("white") for label in labels(saved(search_plots.front(made.search()))[0]))


@pytest.mark.parametrize(("name", "whose"), [("benign_nll", "benign"), ("task_nll", "task")])
def test_the_axis_says_whose_answers_and_which_way_is_better(name, whose):
    (axes,) = saved(search_plots.front(made.search(utility_name=name)))
    assert axes.get_xlabel() == f"held-out {whose} answers: nats per token (lower is better)"


HOSTILE = ("<script>alert(1)</script>", r"$\frac{1}$", "_hidden $x$", "a\nb\x00\u202e", "x" * 300, "%s {x}")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("draw", [search_plots.safe_share, search_plots.front])
def test_no_name_or_reason_is_read_as_mathematics_or_widens_the_figure(text, draw):
    trials = [made.trial(0, reason=text, params={text: 1.5}), made.trial(1, NAN, state="failed", reason=text)]
    result = made.search(trials, best=0, study=text, model=text, utility_name=text)
    panels = saved(draw(result))
    assert len(panels[0].get_title()) < 160 and "\x00" not in panels[0].get_title()


# Optuna's own

NAMES = ["history", "importances", "contour", "slice"]
FEW = {
    "empty": ((), {}, []),
    "one trial": ((3.8,), {}, []),
    "all pruned": ((None,) * 8, {}, []),
    "two trials": ((3.8, 3.9), {}, ["history", "slice"]),
    "four trials": ((3.8, 3.9, 3.7, 3.85), {}, ["history", "contour", "slice"]),
    "all outside": ((3.8, 3.9, 3.7, 3.6, 3.95, 3.65), {"inside": False}, NAMES),
    "one setting varies": ((3.8, 3.9, 3.7, 3.6, 3.95, 3.65), {"vary": ("safe",)}, ["history", "slice"]),
    "two settings vary": ((3.8, 3.9, 3.7, 3.6, 3.95, 3.65), {"vary": ("safe", "lora_rank")}, NAMES),
    "no setting varies": ((3.8, 3.9, 3.7, 3.6, 3.95, 3.65), {"vary": ()}, ["history"]),
    "one value": ((3.8,) * 8, {}, ["history", "slice"]),
    "infinite values": ((3.8, math.inf, math.inf, math.inf), {}, []),
    "as made": ((3.9, 3.7, 3.8, None, 3.85, math.inf, 3.95, 3.72, 3.6), {}, NAMES),
    "three objectives": ((3.9, 3.7, 3.8, None, 3.85, 3.75, 3.95), {"objectives": 3}, NAMES),
    "three objectives, all outside": ((3.9, 3.7), {"objectives": 3, "inside": False}, ["history", "slice"]),
}


@pytest.mark.parametrize(("utilities", "how", "names"), FEW.values(), ids=FEW)
def test_what_a_study_is_enough_for_is_drawn_and_nothing_else(utilities, how, names, capfd):
    figures = optuna_figures.of_study(made.study(utilities, **how))
    assert list(figures) == names
    for figure in figures.values():
        figure.canvas.draw()
        assert figure.get_size_inches()[0] == 6.4 and figure.dpi == 150
    assert capfd.readouterr() == ("", "")


def test_drawing_a_study_leaves_no_trace():
    study = made.study()
    pyplot.close("all")
    before = dict(matplotlib.rcParams), optuna.logging.get_verbosity(), len(study.trials), study.trials[0].user_attrs
    optuna_figures.of_study(study)
    assert pyplot.get_fignums() == []
    after = dict(matplotlib.rcParams), optuna.logging.get_verbosity(), len(study.trials), study.trials[0].user_attrs
    assert after == before


def test_the_history_is_of_utility_over_the_numbers_of_the_study():
    for objectives in (1, 3):
        (axes,) = optuna_figures.of_study(made.study((3.9, None, 3.7, 3.8), objectives=objectives))["history"].axes
        assert {(0.0, 3.9), (2.0, 3.7), (3.0, 3.8)} <= points_of(axes)
        assert axes.get_ylabel() == "utility (nats per token)"
        (best,) = axes.get_lines()
        assert best.get_ydata().tolist() == [3.9, 3.9, 3.7, 3.7]


def test_trials_outside_are_no_best_so_far():
    (axes,) = optuna_figures.of_study(made.study(inside=False))["history"].axes
    assert not np.isfinite(axes.get_lines()[0].get_ydata()).any()
    assert labels(axes) == ["outside the limits"]
    assert len(axes.collections[0].get_offsets()) == 0 and len(axes.collections[1].get_offsets()) == 7


def test_the_contour_is_over_the_two_settings_that_matter_most():
    study = made.study()
    figure = optuna_figures.of_study(study)["contour"]
    with optuna_figures.quiet():
        most = list(optuna.importance.get_param_importances(study))[:2]
    assert {figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()} == set(most)


def test_slices_are_three_in_a_row_and_their_logarithms_are_plain_numbers():
    figure = optuna_figures.of_study(made.study())["slice"]
    figure.canvas.draw()
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_xlabel()}
    assert list(panels) == ["learning_rate", "lora_rank", "safe"]
    assert [text.get_text() for text in panels["lora_rank"].get_xticklabels()] == ["4", "8", "16", "32"]
    assert [text.get_text() for text in panels["learning_rate"].get_xticklabels()] == ["0.0001", "0.0003", "0.001"][:2]


def test_ticks_of_logarithms_are_few_and_lie_inside():
    assert optuna_looks.log_ticks(4, 40) == [4, 8, 16, 32] and optuna_looks.log_ticks(1e-4, 1e-3) == [1e-4, 3e-4, 1e-3]
    # Neither 1 and 3 nor 1, 2 and 5 are there twice.
    assert optuna_looks.log_ticks(2.5e-4, 4.5e-4) == [3e-4, 4e-4]
    assert optuna_looks.log_ticks(2.1e-4, 2.2e-4) == []


def test_no_text_of_a_user_is_in_the_copy_that_is_drawn():
    study = made.study()
    copy = optuna_figures.copied(study)
    assert all(trial.user_attrs == {} for trial in copy.trials)
    assert [trial.number for trial in copy.trials] == [trial.number for trial in study.trials]
    assert [trial.values for trial in copy.trials if trial.values] == [t.values for t in study.trials if t.values]
    assert all(trial.constraints == {"asr": -1.0} for trial in copy.trials if trial.values)


def test_a_search_for_a_front_which_has_no_limits_says_what_is_inside_by_its_notes():
    study = made.study(objectives=3, inside=None)
    for trial, is_inside in zip(study.get_trials(deepcopy=False), [True, False] * 4, strict=True):
        trial.user_attrs["inside"] = is_inside
    (axes,) = optuna_figures.of_study(study)["history"].axes
    inside, outside = (part.get_offsets()[:, 0].tolist() for part in axes.collections)
    assert (inside, outside) == ([0, 2, 4, 6], [1, 5, 7])
    assert not any(trial.constraints for trial in optuna_figures.copied(study, all_objectives=True).trials)
