"""Planes are drawn from their results alone, without a warning; what was not measured gets no colour."""

import dataclasses
import math

import made
import numpy as np
import pytest
from drawn import labels, nothing_to_warn_of, once, points_of, saved  # noqa: F401  (a fixture of all tests here)
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from visage_mlflow.figures import lines, maps
from visage_mlflow.results import Mark

NAN = math.nan
HOLE = ((100.0, 75.0, 100.0, 100.0), (50.0, NAN, 25.0, 0.0), (100.0, 50.0, 75.0, 100.0), (100.0, 100.0, 100.0, 100.0))
EDGE_CASES = {
    "one NaN": HOLE,
    "a row of NaN": ((100.0, 0.0, 100.0), (NAN, NAN, NAN), (100.0, 0.0, 100.0)),
    "all NaN": ((NAN,) * 3,) * 3,
    "one value": ((NAN, NAN, NAN), (NAN, 50.0, NAN), (NAN, NAN, NAN)),
    "all safe": ((0.0,) * 3,) * 3,
    "all unsafe": ((100.0,) * 3,) * 3,
    "all at the edge": ((50.0,) * 3,) * 3,
    "up to the edge": ((50.0, 0.0, 50.0),) * 3,
    "from the edge": ((50.0, 100.0, 50.0),) * 3,
}


def filled(axes):
    """The filled contours."""
    return next(part for part in axes.collections if getattr(part, "filled", False))


def areas(axes):
    """Whether the contours give a colour to (x, y)."""
    paths = filled(axes).get_paths()
    return lambda x, y: any(path.contains_point((x, y)) for path in paths)


def edge_lines(axes):
    """Pieces of the line at 50 %, each as points."""
    parts = [part for part in axes.collections if getattr(part, "filled", None) is False]
    return [polygon for part in parts for path in part.get_paths() for polygon in path.to_polygons(closed_only=False)]


def marks(axes, marker):
    """Where a line's marker of this kind stands, once each."""
    found = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == marker]
    return {tuple(xy) for part in found for xy in part}


@pytest.mark.parametrize("rows", EDGE_CASES.values(), ids=EDGE_CASES)
def test_any_plane_can_be_drawn_as_a_surface_and_as_a_map_under_a_trajectory(rows):
    saved(maps.surface(made.plane_landscape(rows)))
    saved(maps.trajectory(made.plane_trajectory(rows)))


def test_a_plane_is_dispatched_to_its_map_and_a_line_is_not():
    assert filled(once(lines.landscape, made.plane_landscape)[0])
    assert filled(once(lines.trajectory, made.plane_trajectory)[0])
    with pytest.raises(StopIteration):
        filled(once(lines.landscape, made.line)[0])


def test_a_missing_point_is_masked_and_no_colour_touches_its_cells():
    (axes,) = saved(maps.contour(made.plane_landscape(HOLE)))
    # Columns are at x = -0.5, 1/6, 5/6 and 1.5, rows at y = -0.5, -1/6, 1/6 and 0.5; (1/6, -1/6) is missing.
    has_colour = areas(axes)
    for x in (-0.4, 0.1, 0.25, 0.75):
        for y in (-0.4, -0.2, -0.1, 0.1):
            assert not has_colour(x, y)
    assert has_colour(1.2, -0.3) and has_colour(1.2, 0.4) and has_colour(-0.2, 0.4)
    assert (0.25, 0.0) not in points_of(axes)
    assert len(axes.collections[-1].get_offsets()) == 15
    assert "not measured" in labels(axes) and axes.patch.get_hatch()


def test_a_whole_plane_says_nothing_of_missing_points():
    whole = ((100.0, 0.0, 100.0),) * 3
    (axes,) = saved(maps.contour(made.plane_landscape(whole)))
    assert "not measured" not in labels(axes) and not np.ma.is_masked(filled(axes).get_array())


def test_the_surface_leaves_out_the_cells_of_a_missing_point():
    for rows, n_cells in ((HOLE, 5), (((0.0,) * 4,) * 4, 9), (EDGE_CASES["all NaN"], 0)):
        (axes,) = saved(maps.surface(made.plane_landscape(rows)))
        assert len(axes.collections[0].get_array()) == n_cells
    assert axes.get_zlim() == (0, 100) and "%" in axes.get_zlabel()


def test_the_edge_is_where_the_rate_crosses_50_between_points():
    # Along x the rate goes 0, 100, 100 from -0.5 over 0.5 to 1.5: it crosses 50 at 0.
    (axes,) = saved(maps.contour(made.plane_landscape(((0.0, 100.0, 100.0),) * 3)))
    (line,) = edge_lines(axes)
    assert np.allclose(line[:, 0], 0.0) and {-0.5, 0.5} == {line[0, 1], line[-1, 1]}
    assert "edge (ASR 50 %)" in labels(axes)


@pytest.mark.parametrize("name", ["all NaN", "all safe", "all unsafe", "all at the edge", "up to the edge"])
def test_where_nothing_crosses_there_is_no_edge_and_no_word_of_it(name):
    (axes,) = saved(maps.contour(made.plane_landscape(EDGE_CASES[name])))
    assert edge_lines(axes) == [] and "edge (ASR 50 %)" not in labels(axes)


def test_rows_are_drawn_along_y_and_columns_along_x():
    rows = ((0.0, 0.0, 0.0, 100.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    (axes,) = saved(maps.contour(made.plane_landscape(rows)))
    (line,) = edge_lines(axes)
    assert line[:, 0].min() > 0.8 and line[:, 1].max() < 0


def test_both_axes_say_what_a_step_is_and_the_title_names_model_plane_and_score():
    for draw in (maps.contour, maps.surface):
        (axes,) = once(draw, made.plane_landscape)
        assert axes.get_title() == "builtin:smollm2, 2d-interpolation: VISAGE 66.7"
        for label, words in ((axes.get_xlabel(), ("towards model fedcba98",)), (axes.get_ylabel(), ("other", "71°"))):
            assert "1 = 0.2 % of the weights' norm" in label and all(word in label for word in words)


def test_the_model_and_the_marks_are_shown_by_name():
    (axes,) = once(maps.contour, made.plane_landscape)
    assert marks(axes, "*") == {(0.0, 0.0)} and marks(axes, "X") == {(1.0, 0.0), (0.4, 0.45)}
    assert {text.get_text() for text in axes.texts} == {"model fedcba98", "other"}


def test_what_lies_beyond_the_grid_is_shown_on_hatched_ground():
    whole = ((100.0, 0.0, 100.0),) * 3
    result = dataclasses.replace(
        made.plane_landscape(whole), marks=(Mark("org/far", 3.0, -2.0), Mark("nan", NAN, 0.0))
    )
    (axes,) = saved(maps.contour(result))
    assert axes.get_xlim()[1] > 3 and axes.get_xlim()[0] == -0.5
    assert axes.get_ylim()[0] < -2 and axes.get_ylim()[1] == 0.5
    assert labels(axes).count("not measured") == 1
    assert [text.get_text() for text in axes.texts] == ["far"]


# Trajectories


def arrows(axes):
    """(from, to) of every arrow."""
    found = [text for text in axes.texts if text.arrow_patch is not None]
    return [(tuple(one.xyann), tuple(one.xy)) for one in found]


def test_each_course_goes_from_the_model_through_its_checkpoints():
    (axes,) = once(maps.trajectory, made.plane_trajectory)
    assert arrows(axes) == [
        ((0, 0), (0.5, 0.1)), ((0.5, 0.1), (1.0, 0.0)),
        ((0, 0), (0.2, 0.2)), ((0.2, 0.2), (0.4, 0.45)),
        ((0, 0), (0.3, -0.2)),
    ]  # fmt: skip
    assert {(0.5, 0.1), (1.0, 0.0), (0.2, 0.2), (0.4, 0.45), (0.3, -0.2)} <= points_of(axes)


def test_the_legend_gives_each_course_its_margin_open_edges_as_a_bound_and_none_where_none_was_looked_for():
    (axes,) = once(maps.trajectory, made.plane_trajectory)
    assert {"30 harmful, margin −0.7 (−0.8 to −0.6)", "60 safe, margin at least +2.9", "mixed"} <= set(labels(axes))
    assert {"fill: ASR of the checkpoint itself", "small: mostly off the plane"} <= set(labels(axes))


def test_a_marker_is_filled_with_its_own_asr_and_the_smaller_the_farther_from_the_plane():
    (axes,) = once(maps.trajectory, made.plane_trajectory)
    markers = {tuple(line.get_xydata()[0]): line for line in axes.get_lines() if len(line.get_xdata())}
    for place in made.plane_trajectory().places:
        line = markers[place.x, place.y]
        asr = colormaps["cividis"](place.asr / 100)[:3] if place.asr == place.asr else (1, 1, 1)
        assert to_rgb(line.get_markerfacecolor()) == pytest.approx(asr, abs=1 / 255)
        assert line.get_markersize() == 10 - 5 * place.off_plane_share


def test_courses_have_colours_of_their_own_that_no_level_of_the_map_has():
    (axes,) = once(maps.trajectory, made.plane_trajectory)
    looks = {arrow.arrow_patch.get_edgecolor() for arrow in axes.texts if arrow.arrow_patch is not None}
    assert len(looks) == 3
    levels = [face[:3] for face in filled(axes).get_facecolor()]
    assert min(np.abs(np.subtract(look[:3], level)).max() for look in looks for level in levels) > 0.15


def test_a_mark_that_is_a_checkpoint_is_drawn_once():
    result = made.plane_trajectory()
    spans = (Mark(result.places[1].uri, 1.0, 0.0), Mark("org/other", 0.4, 0.45))
    result = dataclasses.replace(result, landscape=dataclasses.replace(result.landscape, marks=spans))
    (axes,) = saved(maps.trajectory(result))
    assert {text.get_text() for text in axes.texts if text.get_text()} == {"other"}


@pytest.mark.parametrize(
    "places",
    [
        (),
        (made.place(4, 0.0, 0.0, y=0.0),),
        (made.place(4, 0.5, 0.0, y=0.1), made.place(8, 0.5, 0.0, y=0.1)),
        (made.place(4, NAN, 0.0, NAN, y=NAN), made.place(8, 5.0, NAN, y=-3.0)),
    ],
    ids=["none", "at the model", "twice in one place", "unknown, and far beyond the grid"],
)
def test_any_course_can_be_drawn(places):
    result = made.plane_trajectory()
    course = dataclasses.replace(result.courses[0], places=places, edge=None)
    for draw in (maps.trajectory, lines.courses):
        saved(draw(dataclasses.replace(result, courses=(course,), remark="")))


def test_a_remark_is_printed_under_the_map():
    figure = maps.trajectory(made.plane_trajectory())
    assert figure.legends[0].get_title().get_text() == "Small markers lie off the plane."
    assert maps.trajectory(made.plane_trajectory(remark="")).legends[0].get_title().get_text() == ""
