"""A search's figures show each trial for what it is, and what was not measured is counted, not drawn."""

import dataclasses
import math

import made
import numpy as np
import pytest
from drawn import labels, nothing_to_warn_of, points_of, saved  # noqa: F401  (a fixture of all tests here)
from matplotlib.colors import to_rgba

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
    assert dashed == [[12.5], [30.0]] and "inside: both upper ends below these" in labels(upper)


def test_bars_reach_up_to_the_ends_that_the_limits_ask_for():
    one = dataclasses.replace(made.trial(0, 40.0, 15.0), asr_upper=52.0, over_refusal_upper=27.0)
    upper, lower = saved(search_plots.safe_share(made.search([one], best=None)))
    for axes, ends in ((upper, [40.0, 52.0]), (lower, [15.0, 27.0])):
        (bars,) = axes.containers
        assert bars[2][0].get_segments()[0][:, 1].tolist() == ends


def test_the_best_is_ringed_in_all_panels_and_named_with_its_mixture():
    figure = search_plots.safe_share(made.search())
    upper, lower = saved(figure)
    assert (ring(upper), ring(lower)) == (
        [(50.0, 5.0)],
        [(50.0, 10.0)],
    ) and "best, its check holds (trial 2)" in labels(upper)
    assert (
        remark(figure) == "Ringed, best, its check holds: 30 harmful + 60 safe + 30 benign rows, learning_rate 0.0002."
    )
    (axes,) = saved(search_plots.front(made.search()))
    assert ring(axes) == [(3.8, 5.0)]


def test_a_trial_whose_check_did_not_hold_is_crossed_out_and_the_nearest_is_not_called_the_best():
    figure = search_plots.safe_share(made.search(best=None, leading=2, checks=(made.check(2, asr_upper=21.0),)))
    for axes in saved(figure):
        assert [tuple(line.get_xydata()[0])[0] for line in axes.get_lines() if line.get_marker() == "x"] == [50.0]
    assert "check did not hold (1)" in labels(figure.axes[0])
    assert remark(figure).startswith("No check holds. Ringed, nearest to the limits: 30 harmful")


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


HOSTILE = ("<script>alert(1)</script> %s {x}", r"_hidden $\frac{1}$ $x$", "a\nb\x00\u202e" + "x" * 300)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("draw", [search_plots.safe_share, search_plots.front])
def test_no_name_or_reason_is_read_as_mathematics_or_widens_the_figure(text, draw):
    trials = [made.trial(0, reason=text, params={text: 1.5}), made.trial(1, NAN, state="failed", reason=text)]
    result = made.search(trials, best=0, study=text, model=text, utility_name=text)
    panels = saved(draw(result))
    assert len(panels[0].get_title()) < 160 and "\x00" not in panels[0].get_title()


def test_a_trial_in_which_all_attacks_succeed_is_drawn_though_its_upper_end_is_below_100():
    trial = dataclasses.replace(made.trial(0, 100.0), asr_upper=99.9)
    result = made.search([trial], best=None, nearest=0)
    assert search_plots.safe_share(result) and search_plots.front(result)
