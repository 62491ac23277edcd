"""Each figure is drawn from its result alone, without a warning, whatever could not be measured."""

import dataclasses
import math

import made
import numpy as np
import pytest
from drawn import curves, labels, nothing_to_warn_of, once, points_of, saved  # noqa: F401  (a fixture of all tests here)

from visage_mlflow.figures import lines, overview, style
from visage_mlflow.results import Axis

NAN = math.nan


def edges(axes):
    """Places of the dashed vertical lines."""
    return sorted(
        line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--" and len(line.get_xdata())
    )


# Landscapes


def test_a_landscape_shows_every_point_its_edges_and_its_score():
    (axes,) = saved(lines.landscape(made.landscape((100.0, 25.0, 0.0, 50.0, 75.0))))
    curve = next(iter(curves(axes).values()))
    assert curve.tolist() == [[-0.5, 100], [-0.25, 25], [0, 0], [0.25, 50], [0.5, 75]]
    assert edges(axes) == [-0.3, 0.4]
    assert "VISAGE 66.7" in axes.get_title() and "random direction" in axes.get_xlabel()
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 100


def test_a_point_that_was_not_measured_leaves_a_gap():
    (axes,) = saved(lines.landscape(made.landscape((100.0, 25.0, 0.0, NAN, 75.0))))
    curve = next(iter(curves(axes).values()))
    assert np.isnan(curve[3, 1]) and len(curve) == 5


@pytest.mark.parametrize(("is_open", "drawn"), [((True, False), [0.5]), ((False, True), [-0.5])])
def test_an_open_side_has_no_edge(is_open, drawn):
    (axes,) = saved(lines.landscape(made.landscape((0.0, 0.0, 0.0), edges=(-0.5, 0.5), is_open=is_open)))
    assert edges(axes) == drawn


def test_where_there_is_no_basin_no_edges_are_drawn():
    (axes,) = saved(lines.landscape(made.landscape((100.0, 100.0, 75.0, 100.0, 100.0), edges=(0.0, 0.0))))
    assert edges(axes) == [] and not [label for label in labels(axes) if "edges" in label]


def test_a_course_says_what_its_margin_hides():
    course = made.trajectory().courses[0]
    assert style.course_label(course) == "30 harmful, margin −0.4 (−0.5 to −0.3)"
    falling = dataclasses.replace(course, edge=made.edge(falls=True))
    assert style.course_label(falling).endswith(", falls")
    outside = dataclasses.replace(course, edge=made.edge(0.0))
    assert style.course_label(outside) == "30 harmful, began outside"


@pytest.mark.parametrize("asr", [(NAN, NAN, 0.0, NAN, NAN), (NAN, 0.0, 0.0), (100.0, 100.0, 100.0), (0.0, 0.0, 0.0)])
def test_any_landscape_can_be_drawn(asr):
    saved(lines.landscape(made.landscape(asr)))


def test_a_line_between_models_says_which_end_is_which():
    (axes,) = once(lines.landscape, made.line)
    assert axes.get_xlabel() == "towards model fedcba98 (1 = 0.2 % of the weights' norm)"
    assert "1d-interpolation" in axes.get_title()


@pytest.mark.parametrize("model", ["org/a-model-with-a-name-far-longer-than-any-title-can-hold", "/tmp/folder/", "x"])
def test_a_long_name_is_shortened_and_a_short_one_kept(model):
    result = made.landscape()
    named = type(result)(**{**vars(result), "setup": made.setup(model)})
    (axes,) = saved(lines.landscape(named))
    name = axes.get_title().partition(",")[0]
    assert 0 < len(name) <= 28 and (len(model) > 28 or name in model)


# Skipped points


def skipping(result, *indices):
    """The same landscape with points left out, as `outside_after` leaves them out."""
    points = list(result.points)
    for index in indices:
        points[index] = made.skipped(points[index].x)
    return dataclasses.replace(result, points=tuple(points))


def bands(axes):
    """(from, to) of the hatched bands."""
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    return sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in hatched)


def test_skipped_points_are_a_band_from_the_last_measured_point_to_the_end_of_the_axis():
    result = skipping(made.landscape((100.0, 100.0, 0.0, 50.0, 100.0, 100.0, 100.0, 100.0, 100.0)), 0, 7, 8)
    (axes,) = saved(lines.landscape(result))
    # Steps are -0.5, -0.375, …, 0.5: the second is measured, and so is the seventh, at 0.25.
    assert bands(axes) == [(-0.5, -0.375), (0.25, 0.5)]
    assert labels(axes).count("skipped (past ASR 100 %)") == 1
    curve = next(iter(curves(axes).values()))
    assert np.isnan(curve[[0, 7, 8], 1]).all() and curve[1].tolist() == [-0.375, 100]
    low, high = axes.get_xlim()
    assert low <= -0.5 and high >= 0.5


def test_where_nothing_was_skipped_there_is_no_band():
    # The fourth point was measured and could not be judged: that is a gap.
    for figure in (lines.landscape(made.landscape((NAN, 25.0, 0.0, NAN, 75.0))), lines.visage(made.visage())):
        (axes,) = saved(figure)
        assert bands(axes) == [] and "skipped (past ASR 100 %)" not in labels(axes)


def test_an_end_that_was_skipped_on_one_side_has_a_band_there_alone():
    (axes,) = saved(lines.landscape(skipping(made.landscape((NAN, 0.0, 0.0, 100.0, 100.0)), 4)))
    assert bands(axes) == [(0.25, 0.5)]


def test_visage_shows_what_each_direction_skipped_with_one_word_in_the_legend():
    result = made.visage(((100.0, 100.0, 0.0, 25.0, 100.0), (100.0, 100.0, 0.0, 100.0, 100.0)))
    first, second = result.landscapes
    landscapes = (skipping(first, 0), skipping(second, 0, 4))
    result = dataclasses.replace(result, landscapes=landscapes, mean_asr=(NAN, 100.0, 0.0, 62.5, NAN))
    for axes in (
        saved(lines.visage(result))[0],
        saved(overview.overview(result, made.trajectory(), [row("base")]))[0],
    ):
        assert bands(axes) == [(-0.5, -0.25), (-0.5, -0.25), (0.25, 0.5)]
        assert labels(axes).count("skipped (past ASR 100 %)") == 1


def test_a_trajectory_shows_what_its_line_skipped():
    result = made.trajectory()
    result = dataclasses.replace(result, landscape=skipping(result.landscape, 4))
    upper, lower = saved(lines.trajectory(result))
    assert bands(upper) == [(1.0, 1.5)] and bands(lower) == []


# VISAGE

MEAN = "mean with 95 % interval"


def test_visage_shows_each_direction_their_mean_and_all_edges():
    (axes,) = once(lines.visage, made.visage)
    drawn = curves(axes)
    names = {"direction 0", "direction 1", MEAN}
    assert names <= set(drawn) and names <= set(labels(axes))
    assert drawn[MEAN][:3].tolist() == [[-0.5, 100], [-0.25, 62.5], [0, 0]] and np.isnan(drawn[MEAN][3, 1])
    assert edges(axes) == [-0.3, -0.3, 0.4, 0.4]
    assert "70.0" in axes.get_title() and "50.0 to 80.0" in axes.get_title()


def test_the_mean_has_its_interval_as_a_band_with_gaps_where_it_is_not_known():
    (axes,) = once(lines.visage, made.visage)
    corners = {tuple(xy) for part in axes.collections for path in part.get_paths() for xy in path.vertices.tolist()}
    # The means are 100, 62.5, 0, NaN and 87.5; the interval is 15 each way, from 0 to 100.
    assert {(-0.5, 85.0), (-0.5, 100.0), (-0.25, 47.5), (-0.25, 77.5), (0.0, 0.0), (0.0, 15.0)} <= corners
    assert not [xy for xy in corners if xy[0] == 0.25]


@pytest.mark.parametrize("n_directions", [1, 8])
def test_any_number_of_directions_can_be_drawn(n_directions):
    (axes,) = saved(lines.visage(made.visage(((100.0, 0.0, 100.0),) * n_directions)))
    assert len([label for label in labels(axes) if label.startswith("direction ")]) == n_directions


# Trajectories


def courses_on_a_line(n):
    result = made.trajectory()
    more = [
        dataclasses.replace(made.plane_trajectory().courses[index % 3], name=f"course {index}") for index in range(n)
    ]
    return dataclasses.replace(result, courses=tuple(more))


def test_a_trajectory_shows_every_checkpoint_at_its_place_and_what_lies_off_the_line():
    upper, lower = once(lines.trajectory, made.trajectory)
    assert {(0.5, 25.0), (1.0, 100.0)} <= points_of(upper)
    assert {(0.5, 20.0), (1.0, 95.0)} <= points_of(upper)  # Of the line there: 5 less.
    assert {(0.5, 0.6), (0.9, 0.2), (1.0, 0.0)} <= points_of(lower)  # The one whose ASR is unknown, too.
    assert "towards model fedcba98" in lower.get_xlabel() and "0.2 %" in lower.get_xlabel()
    assert "off-plane" in lower.get_ylabel()
    assert lower.get_ylim()[0] < 0 and lower.get_ylim()[1] > 1


@pytest.mark.parametrize("draw", [lines.trajectory, lines.courses])
@pytest.mark.parametrize(
    "places",
    [
        [(4, 1.0, 100.0, 0.0)],
        [(4, 1.0, NAN, 0.0)],
        [(4, 0.999, 100.0, 0.01), (8, 1.0, 100.0, 0.0)],
        [(4, -0.2, 0.0, 1.0), (8, 1.0, 50.0, 0.0)],
        [],
    ],
)
def test_no_checkpoint_or_one_or_several_in_one_place_can_be_drawn(places, draw):
    upper, lower = saved(draw(made.trajectory(places)))
    if draw is lines.trajectory:
        assert {(x, share) for _, x, _, share in places} <= points_of(lower)
    else:
        expected = {(step, 0.2 * part) for step, _, _, share in places for part in (1, share)}
        assert {(step, round(distance, 9)) for step, distance in points_of(lower)} == {
            (step, round(distance, 9)) for step, distance in expected
        }


@pytest.mark.parametrize("draw", [lines.trajectory, lines.courses])
def test_each_course_has_its_own_look_and_its_margin_in_the_legend(draw):
    upper, _ = saved(draw(courses_on_a_line(9)))
    margins = (", margin −0.7 (−0.8 to −0.6)", ", margin at least +2.9", "")
    assert labels(upper)[:9] == [f"course {index}{margins[index % 3]}" for index in range(9)]
    looks = [(bars.lines[0].get_color(), bars.lines[0].get_marker()) for bars in upper.containers]
    assert len(looks) == 9 == len(set(looks))


def test_a_trajectory_over_a_line_with_gaps_can_be_drawn():
    saved(lines.trajectory(made.trajectory(asr=(NAN, 0.0, NAN, 100.0, NAN))))


def test_courses_show_the_checkpoints_and_the_plane_at_every_step_and_both_distances():
    upper, lower = once(lines.courses, made.trajectory)
    assert points_of(upper) >= {(4, 25.0), (12, 100.0), (4, 20.0), (12, 95.0)}
    # In percent of the norm: 0.2 from the model, and 0.6, 0.2 and 0 of that from the plane.
    found = {(step, round(distance, 9)) for step, distance in points_of(lower)}
    assert found == {(4, 0.2), (8, 0.2), (12, 0.2), (4, 0.12), (8, 0.04), (12, 0.0)}
    assert "%" in lower.get_ylabel() and lower.get_xlabel() == "optimizer steps"
    styles = [line.get_linestyle() for line in upper.get_lines() if len(line.get_xdata()) == 3]
    assert styles.count("-") == 1 and styles.count("--") == 1


@pytest.mark.parametrize("draw", [lines.trajectory, lines.courses])
def test_a_remark_stands_under_the_figure_whole(draw):
    remark = "What this shows, in $ and _words_: " + "a long remark that needs several lines " * 5
    figure = draw(made.trajectory(remark=remark))
    saved(figure)
    shown = figure.legends[0].get_title().get_text().replace("\\$", "$")
    assert " ".join(shown.split()) == " ".join(remark.split()) and "\n" in shown


# Finetuning


def test_a_finetuning_shows_both_rates_and_the_distance_at_every_step():
    upper, lower = once(lines.finetuning, made.finetuning)
    assert {(0, 0.0), (8, 100.0), (0, 5.0), (8, 0.0)} <= points_of(upper)
    assert points_of(lower) == {(0, 0.0), (4, 0.1), (8, 0.2)}  # In percent of the base's norm.
    assert "%" in lower.get_ylabel() and lower.get_xlabel() == "optimizer steps"
    assert {"ASR", "over-refusal"} <= set(labels(upper))
    assert "50 harmful + 20 benign" in upper.get_title()


@pytest.mark.parametrize("rates", [[(0.0, 0.0)], [(NAN, NAN)], [(0.0, 5.0), (100.0, 0.0)]])
def test_any_finetuning_can_be_drawn(rates):
    saved(lines.finetuning(made.finetuning(rates)))


# Overview


def row(model, asr=25.0, over_refusal=10.0):
    return {"model": model, **made.evaluation(asr, over_refusal).metrics()}


@pytest.mark.parametrize("ways", [made.trajectory(), made.plane_trajectory()], ids=["line", "plane"])
def test_the_overview_shows_basin_trajectories_and_every_model_of_the_table(ways):
    table = [row("base", 100.0), row("aligned", 0.0, 0.0), row("harmful", 75.0), row("mixed", NAN, NAN)]
    left, middle, right = saved(overview.overview(made.visage(), ways, table))
    assert "VISAGE 70.0" in left.get_title() and middle.get_title() and right.get_title()
    assert {style.course_label(course) for course in ways.courses} <= set(labels(middle))
    assert "% of the weights' norm" in middle.get_xlabel()
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["base", "aligned", "harmful", "mixed"]
    heights = [bar.get_height() for container in right.containers for bar in getattr(container, "patches", [])]
    assert heights[:3] == [100.0, 0.0, 75.0] and np.isnan(heights[3])
    assert all("%" in axes.get_ylabel() for axes in (left, middle, right))


def test_an_overview_of_one_trajectory_and_one_model_can_be_drawn():
    saved(overview.overview(made.visage(), made.trajectory([(4, 1.0, NAN, 0.0)]), [row("base")]))


# Labels


@pytest.mark.parametrize(
    ("more", "label"),
    [
        ({"kind": "random", "seed": 0}, "step along random direction (seed 0; 1 = 95 % of the weights' norm)"),
        (
            {"kind": "difference", "relative_norm": 0.002, "to": "org/model"},
            "towards model (1 = 0.2 % of the weights' norm)",
        ),
        (
            {"kind": "component", "relative_norm": 0.00213, "explained_variance": 0.6241},
            "principal component (62 % of variance; 1 = 0.21 % of the weights' norm)",
        ),
        (
            {"kind": "difference", "relative_norm": 1.1, "to": "a/b", "angle": 71.2},
            "towards b (1 = 110 % of the weights' norm; made orthogonal, was 71°)",
        ),
        (
            {"kind": "random", "seed": 3, "relative_norm": 0.9966},
            "step along random direction (seed 3; 1 = 100 % of the weights' norm)",
        ),
    ],
)
def test_an_axis_says_what_a_step_of_1_is(more, label):
    assert style.axis_label(Axis(**{"relative_norm": 0.95, "steps": (), "basin": None, **more})) == label


NAMES = ("$x$ costs $", "_hidden", r"\frac{", "a\nb\u202ec", "$\\undefined$")


@pytest.mark.parametrize("name", NAMES)
def test_a_models_name_breaks_no_title(name):
    saved(lines.landscape(dataclasses.replace(made.landscape(), setup=made.setup(name))))


@pytest.mark.parametrize("draw", [lines.trajectory, lines.courses])
def test_names_of_courses_are_drawn_as_they_are(draw):
    result = courses_on_a_line(len(NAMES))
    named = [dataclasses.replace(course, name=name) for course, name in zip(result.courses, NAMES, strict=True)]
    upper, _ = saved(draw(dataclasses.replace(result, courses=tuple(named))))
    for label, name in zip(labels(upper), NAMES, strict=False):
        shown = label.replace(r"\$", "$").strip()
        assert shown.startswith(" ".join(name.replace("\u202e", " ").split()))
