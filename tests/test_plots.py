"""Each figure is drawn from its result alone, without a warning, whatever could not be measured."""

import dataclasses
import io
import logging
import math
import warnings

import made
import numpy as np
import pytest

from visage_mlflow.record import plots
from visage_mlflow.record.results import Point

NAN = math.nan
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def nothing_to_warn_of(caplog):
    """Warnings are errors, and matplotlib's log, where it reports positions that are not finite, stays empty."""
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert [record.getMessage() for record in caplog.records] == []


def saved(figure):
    """The figure as a PNG; what every figure must have is checked on the way."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(PNG) and len(buffer.getvalue()) > 5000
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels[0].get_title()
    for axes in panels:
        assert axes.get_ylabel()
        if "rate" in axes.get_ylabel() or "share of" in axes.get_ylabel():
            assert "%" in axes.get_ylabel()
    assert panels[-1].get_xlabel() or panels[-1].get_xticklabels()
    return panels


def curves(axes):
    """Label -> (x, y) of the lines that stand in the legend."""
    lines = {line.get_label(): np.array(line.get_xydata(), dtype=float) for line in axes.get_lines()}
    return {label: xy for label, xy in lines.items() if not label.startswith("_")}


def edges(axes):
    """Places of the dashed vertical lines."""
    return sorted(
        line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--" and len(line.get_xdata())
    )


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def points_of(axes):
    """All (x, y) that markers stand at, lines and scatters together; what is not finite is left out."""
    found = [np.array(line.get_xydata(), dtype=float) for line in axes.get_lines() if line.get_marker() != "None"]
    found += [np.ma.filled(np.ma.asarray(part.get_offsets(), dtype=float), NAN) for part in axes.collections]
    found = [xy.reshape(-1, 2) for xy in found]
    return {tuple(xy) for part in found for xy in part.tolist() if np.isfinite(xy).all()}


# Landscapes


def test_a_landscape_shows_every_point_its_edges_and_its_score():
    (axes,) = saved(plots.landscape(made.landscape((100.0, 25.0, 0.0, 50.0, 75.0))))
    curve = next(iter(curves(axes).values()))
    assert curve.tolist() == [[-0.5, 100], [-0.25, 25], [0, 0], [0.25, 50], [0.5, 75]]
    assert edges(axes) == [-0.3, 0.4]
    assert "VISAGE 66.7" in axes.get_title() and "random direction" in axes.get_xlabel()
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 100


def test_a_point_that_was_not_measured_leaves_a_gap():
    (axes,) = saved(plots.landscape(made.landscape((100.0, 25.0, 0.0, NAN, 75.0))))
    curve = next(iter(curves(axes).values()))
    assert np.isnan(curve[3, 1]) and len(curve) == 5


@pytest.mark.parametrize(
    ("is_open", "drawn"),
    [((True, False), [0.5]), ((False, True), [-0.5]), ((True, True), []), ((False, False), [-0.5, 0.5])],
)
def test_an_open_side_has_no_edge(is_open, drawn):
    (axes,) = saved(plots.landscape(made.landscape((0.0, 0.0, 0.0), edges=(-0.5, 0.5), is_open=is_open)))
    assert edges(axes) == drawn


@pytest.mark.parametrize("asr", [(NAN, NAN, 0.0, NAN, NAN), (NAN, 0.0, 0.0), (100.0, 100.0, 100.0), (0.0, 0.0, 0.0)])
def test_any_landscape_can_be_drawn(asr):
    saved(plots.landscape(made.landscape(asr)))


def test_a_line_between_models_says_which_end_is_which():
    (axes,) = saved(plots.landscape(made.line()))
    assert "0 = model" in axes.get_xlabel() and "1 = other end" in axes.get_xlabel()
    assert "1d-interpolation" in axes.get_title()


@pytest.mark.parametrize("model", ["org/a-model-with-a-name-far-longer-than-any-title-can-hold", "/tmp/folder/", "x"])
def test_a_long_name_is_shortened_and_a_short_one_kept(model):
    result = made.landscape()
    named = type(result)(**{**vars(result), "setup": made.setup(model)})
    (axes,) = saved(plots.landscape(named))
    name = axes.get_title().partition(",")[0]
    assert 0 < len(name) <= 28 and (len(model) > 28 or name in model)


# Skipped points


def skipping(result, *indices):
    """The same landscape with points left out, as `outside_after` leaves them out."""
    points = list(result.points)
    for index in indices:
        points[index] = Point(points[index].step, NAN, NAN, NAN, NAN, 0, ())
    return dataclasses.replace(result, points=tuple(points))


def bands(axes):
    """(from, to) of the hatched bands."""
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    return sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in hatched)


def test_skipped_points_are_a_band_from_the_last_measured_point_to_the_end_of_the_axis():
    result = skipping(made.landscape((100.0, 100.0, 0.0, 50.0, 100.0, 100.0, 100.0, 100.0, 100.0)), 0, 7, 8)
    (axes,) = saved(plots.landscape(result))
    # Steps are -0.5, -0.375, …, 0.5: the second is measured, and so is the seventh, at 0.25.
    assert bands(axes) == [(-0.5, -0.375), (0.25, 0.5)]
    assert labels(axes).count("skipped (past the edge)") == 1
    curve = next(iter(curves(axes).values()))
    assert np.isnan(curve[[0, 7, 8], 1]).all() and curve[1].tolist() == [-0.375, 100]
    low, high = axes.get_xlim()
    assert low <= -0.5 and high >= 0.5


def test_where_nothing_was_skipped_there_is_no_band():
    # The fourth point was measured and could not be judged: that is a gap.
    for figure in (plots.landscape(made.landscape((NAN, 25.0, 0.0, NAN, 75.0))), plots.visage(made.visage())):
        (axes,) = saved(figure)
        assert bands(axes) == [] and "skipped (past the edge)" not in labels(axes)


def test_an_end_that_was_skipped_on_one_side_has_a_band_there_alone():
    (axes,) = saved(plots.landscape(skipping(made.landscape((NAN, 0.0, 0.0, 100.0, 100.0)), 4)))
    assert bands(axes) == [(0.25, 0.5)]


def test_visage_shows_what_each_direction_skipped_with_one_word_in_the_legend():
    result = made.visage(((100.0, 100.0, 0.0, 25.0, 100.0), (100.0, 100.0, 0.0, 100.0, 100.0)))
    first, second = result.landscapes
    landscapes = (skipping(first, 0), skipping(second, 0, 4))
    result = dataclasses.replace(result, landscapes=landscapes, mean_asr=(NAN, 100.0, 0.0, 62.5, NAN))
    for axes in (
        saved(plots.visage(result))[0],
        saved(plots.overview(result, {"safe": made.trajectory()}, [row("base")]))[0],
    ):
        assert bands(axes) == [(-0.5, -0.25), (-0.5, -0.25), (0.25, 0.5)]
        assert labels(axes).count("skipped (past the edge)") == 1


def test_a_trajectory_shows_what_its_line_skipped():
    result = made.trajectory()
    result = dataclasses.replace(result, landscape=skipping(result.landscape, 4))
    upper, lower = saved(plots.trajectory(result))
    assert bands(upper) == [(1.0, 1.5)] and bands(lower) == []


# VISAGE


def test_visage_shows_each_direction_their_mean_and_all_edges():
    (axes,) = saved(plots.visage(made.visage()))
    drawn = curves(axes)
    assert {"direction 0", "direction 1", "mean"} <= set(drawn) and {"direction 0", "direction 1", "mean"} <= set(
        labels(axes)
    )
    assert drawn["mean"][:3].tolist() == [[-0.5, 100], [-0.25, 62.5], [0, 0]] and np.isnan(drawn["mean"][3, 1])
    assert edges(axes) == [-0.3, -0.3, 0.4, 0.4]
    assert "70.0" in axes.get_title() and "50.0 to 80.0" in axes.get_title()


@pytest.mark.parametrize("n_directions", [1, 3, 8])
def test_any_number_of_directions_can_be_drawn(n_directions):
    (axes,) = saved(plots.visage(made.visage(((100.0, 0.0, 100.0),) * n_directions)))
    assert len([label for label in labels(axes) if label.startswith("direction ")]) == n_directions


# Trajectories


def test_a_trajectory_shows_every_checkpoint_at_its_place_and_what_lies_off_the_line():
    upper, lower = saved(plots.trajectory(made.trajectory()))
    assert {(0.5, 25.0), (1.0, 100.0)} <= points_of(upper)
    assert {(0.5, 0.6), (0.9, 0.2), (1.0, 0.0)} <= points_of(lower)  # The one whose ASR is unknown, too.
    assert "0 = base" in lower.get_xlabel() and "1 = last checkpoint" in lower.get_xlabel()
    assert "off-plane" in lower.get_ylabel()
    assert lower.get_ylim()[0] < 0 and lower.get_ylim()[1] > 1


@pytest.mark.parametrize(
    "places",
    [
        [(4, 1.0, 100.0, 0.0)],
        [(4, 1.0, NAN, 0.0)],
        [(4, 0.999, 100.0, 0.01), (8, 1.0, 100.0, 0.0)],
        [(4, -0.2, 0.0, 1.0), (8, 1.0, 50.0, 0.0)],
    ],
)
def test_one_checkpoint_or_several_in_one_place_can_be_drawn(places):
    upper, lower = saved(plots.trajectory(made.trajectory(places)))
    assert {(x, share) for _, x, _, share in places} <= points_of(lower)


def test_a_trajectory_over_a_line_with_gaps_can_be_drawn():
    saved(plots.trajectory(made.trajectory(asr=(NAN, 0.0, NAN, 100.0, NAN))))


# Finetuning


def test_a_finetuning_shows_both_rates_and_the_distance_at_every_step():
    upper, lower = saved(plots.finetuning(made.finetuning()))
    assert {(0, 0.0), (8, 100.0), (0, 5.0), (8, 0.0)} <= points_of(upper)
    assert points_of(lower) == {(0, 0.0), (4, 0.1), (8, 0.2)}  # In percent of the base's norm.
    assert "%" in lower.get_ylabel() and lower.get_xlabel() == "optimizer steps"
    assert {"ASR", "over-refusal"} <= set(labels(upper))
    assert "50 harmful + 20 benign" in upper.get_title()


@pytest.mark.parametrize("rates", [[(0.0, 0.0)], [(NAN, NAN)], [(0.0, 5.0), (100.0, 0.0)]])
def test_any_finetuning_can_be_drawn(rates):
    saved(plots.finetuning(made.finetuning(rates)))


# Overview


def row(model, asr=25.0, over_refusal=10.0):
    return {"model": model, **made.evaluation(asr, over_refusal).metrics()}


def test_the_overview_shows_basin_trajectories_and_every_model_of_the_table():
    trajectories = {name: made.trajectory() for name in ("harmful", "safe", "mixed")}
    table = [row("base", 100.0), row("aligned", 0.0, 0.0), row("harmful", 75.0), row("mixed", NAN, NAN)]
    left, middle, right = saved(plots.overview(made.visage(), trajectories, table))
    assert "VISAGE 70.0" in left.get_title() and middle.get_title() and right.get_title()
    for name in trajectories:
        assert any(name in label and "0.2 %" in label for label in labels(middle))
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["base", "aligned", "harmful", "mixed"]
    heights = [bar.get_height() for container in right.containers for bar in getattr(container, "patches", [])]
    assert heights[:3] == [100.0, 0.0, 75.0] and np.isnan(heights[3])
    assert all("%" in axes.get_ylabel() for axes in (left, middle, right))


def test_an_overview_of_one_trajectory_and_one_model_can_be_drawn():
    saved(plots.overview(made.visage(), {"safe": made.trajectory([(4, 1.0, NAN, 0.0)])}, [row("base")]))
