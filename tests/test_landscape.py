"""Landscapes on lines and planes: of a small model that is really aligned, and of ASR that is written down."""

import dataclasses
import functools
import math
import random
import threading
from unittest import mock

import numpy as np
import pytest
from moved import bitwise, copy_of, on_the_way
from stand_in import StandIn, responses_of, scripted

from visage_mlflow.commands.landscape import keep_part
from visage_mlflow.config import LandscapeConfig
from visage_mlflow.config.grid import AXES
from visage_mlflow.geometry import score
from visage_mlflow.geometry.axes import grid, past_the_edge
from visage_mlflow.language import models
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import AT_REST, Measurer
from visage_mlflow.studies import landscape, spans
from visage_mlflow.studies.crew import Crew, crew
from visage_mlflow.studies.evaluation import harmful_rows
from visage_mlflow.studies.spans import End
from visage_mlflow.text.errors import Mistake

NAN = math.nan
N_ENDS = {"1d-random": 0, "1d-interpolation": 1, "2d-random": 0, "2d-interpolation": 2, "2d-interpolation-random": 1}
N_ENDS |= {"2d-pca": 3}
ROWS = [Row(f"prompt {index}") for index in range(20)]


@pytest.fixture(scope="module")
def asking(sets):
    return {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 12, "max_new_tokens": 8, "store": "off"}


@pytest.fixture(scope="module")
def ends(chat, base):
    others = [on_the_way(chat, base, 0.4, 0.5), on_the_way(chat, base, 0.8, -0.2)]
    return [End(f"end-{index}", weights) for index, weights in enumerate([base.weights, *others])]


@pytest.fixture(scope="module")
def measured(aligned_folder, ends, asking):
    """A function that measures a plane, once for each of its settings: (landscape, responses)."""

    @functools.cache
    def measure(plane, dtype="float32", **settings):
        config = LandscapeConfig(
            **{"plane": plane, "n_points": 5, "extent": 0.6, "workers": 1, "dtype": dtype, **asking, **settings},
            to=",".join(end.uri for end in ends[: N_ENDS[plane]]),
        )
        return landscape.measure(models.load(str(aligned_folder), dtype=dtype), config, ends=ends[: N_ENDS[plane]])

    return measure


def asr_of(result):
    """ASR as an array, (points,) or (points along y, points along x)."""
    return np.array(result.asr).reshape([len(axis.steps) for axis in reversed(result.axes)])


# Of a real model


def test_a_line_shows_the_basin_and_leaves_the_model_and_its_weights_bit_for_bit(chat, asking):
    before, stored = copy_of(chat.model), {name: weight.clone() for name, weight in chat.weights.items()}
    told = []
    config = LandscapeConfig(n_points=9, extent=1.0, workers=1, seed=3, norm="row", **asking)
    result, _ = landscape.measure(chat, config, progress=lambda *point: told.append(point))
    assert bitwise(copy_of(chat.model), before) and bitwise(dict(chat.weights), stored)
    assert result.axis == [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert result.asr[4] == 0.0 and result.asr[0] >= 90 and result.asr[-1] >= 90
    assert -0.8 < result.basin.left < 0 < result.basin.right < 0.8
    assert not result.basin.open_left and not result.basin.open_right
    assert (result.axes[0].kind, result.axes[0].seed, result.axes[0].norm) == ("random", 3, "row")
    # Progress is told of each point once; noise takes longest, so it goes first.
    asr = dict(zip(result.axis, result.asr, strict=True))
    assert told == [((step,), asr[step]) for far in (1.0, 0.75, 0.5, 0.25) for step in (-far, far)] + [((0.0,), 0.0)]


@pytest.mark.parametrize("plane", N_ENDS)
def test_the_model_and_the_first_end_lie_on_a_plane_with_their_own_verdicts(chat, base, measured, ends, asking, plane):
    result, responses = measured(plane)
    assert result.plane == plane and [axis.kind for axis in result.axes] == list(AXES[plane])
    assert [mark.uri for mark in result.marks] == [end.uri for end in ends[: N_ENDS[plane]]]
    config = LandscapeConfig(**asking)
    rows, measure = harmful_rows(config), Measurer(config)
    known = {(0, 0): chat, **({(1, 0): base} if "interpolation" in plane else {})}
    for (x, y), model in known.items():
        alone = measure(model, AT_REST, rows, config)
        (point,) = [point for point in result.points if (point.x, point.y) == (x, y)]
        assert point.verdicts == tuple(response.verdict for response in alone)
        assert (point.asr == 0) if model is chat else (point.asr >= 90)
        assert [one for one in responses if (one.x, one.y) == (x, y)] == [
            dataclasses.replace(response, x=x, y=y) for response in alone
        ]


def test_points_run_along_x_first_and_hold_one_verdict_for_each_prompt(measured, asking):
    result, responses = measured("2d-random", y_n_points=3, y_extent=0.5)
    x, y = (list(axis.steps) for axis in result.axes)
    assert (x, y) == ([-0.6, -0.3, 0.0, 0.3, 0.6], [-0.5, 0.0, 0.5])
    assert [(point.x, point.y) for point in result.points] == grid([x, y])
    prompts = [row.prompt for row in harmful_rows(LandscapeConfig(**asking))]
    for index, point in enumerate(result.points):
        here = responses[12 * index : 12 * (index + 1)]
        assert [response.prompt for response in here] == prompts
        assert {(response.x, response.y) for response in here} == {(point.x, point.y)}
        assert tuple(response.verdict for response in here) == point.verdicts
        succeeded = 12 - point.verdicts.count("refused")
        assert point.asr == 100 * succeeded / 12 and (point.asr_low, point.asr_high) == score.wilson(succeeded, 12)
        assert point.coherent_asr == 100 * point.verdicts.count("complied") / 12
    assert any(point.coherent_asr < point.asr for point in result.points)  # Outside, some answers are noise.
    assert (result.setup.n_prompts, result.setup.max_new_tokens, result.setup.dtype) == (12, 8, "float32")


def test_scores_are_of_all_points_and_each_basin_of_the_line_through_the_model(measured):
    plane, line = measured("2d-random")[0], measured("1d-random")[0]
    for result, lines in ((plane, (asr_of(plane)[2], asr_of(plane)[:, 2])), (line, (line.asr,))):
        assert result.visage == score.visage(asr_of(result)) and 0 < result.visage < 100
        assert result.visage_contiguous == pytest.approx(score.visage_contiguous(asr_of(result)), nan_ok=True)
        assert result.visage_depth == score.visage_depth(asr_of(result))
        for axis, asr in zip(result.axes, lines, strict=True):
            assert dataclasses.asdict(axis.basin) == dataclasses.asdict(score.basin(axis.steps, asr))
    assert plane.axes[0].basin != plane.axes[1].basin
    # The row through the model is the line along the first direction.
    assert tuple(point for point in plane.points if point.y == 0) == line.points and plane.axes[0] == line.axes[0]


@pytest.mark.parametrize("plane", N_ENDS)
def test_neither_workers_nor_saving_memory_change_a_landscape(measured, plane):
    assert measured(plane, workers=3) == measured(plane) == measured(plane, lean=True)


@pytest.mark.parametrize("norm", ["layer", "row"])
def test_neither_workers_nor_saving_memory_change_a_bfloat16_landscape(measured, norm):
    coarse = functools.partial(measured, "1d-random", "bfloat16", norm=norm)
    assert coarse(workers=3) == coarse() == coarse(lean=True)
    assert coarse()[0].setup.dtype == "bfloat16" and coarse()[0].asr[0] > 90 > 10 > coarse()[0].asr[2]


def test_points_left_out_would_be_at_100_and_cost_no_score(measured):
    whole, all_responses = measured("1d-random", n_points=17, extent=1.0)
    result, responses = measured("1d-random", n_points=17, extent=1.0, outside_after=1)
    pairs = list(zip(result.points, whole.points, strict=True))
    left_out = {point.x: full.asr for point, full in pairs if not point.verdicts}
    assert len(left_out) >= 4 and set(left_out.values()) == {100.0} and result.axes == whole.axes
    assert (result.visage, result.visage_contiguous) == (whole.visage, whole.visage_contiguous)
    assert all(point == full for point, full in pairs if point.verdicts)
    assert responses == [response for response in all_responses if response.x not in left_out]


# Of ASR that is written down


@pytest.fixture(scope="module")
def on(chat):
    """A function that measures a grid of given ASR by place: (landscape, responses); ROWS are asked."""

    def measure(asr, measurer=None, workers=1, crew_of=Crew, **told):
        axes = [sorted({place[index] for place in asr}) for index in range(len(next(iter(asr))))]
        config = LandscapeConfig(store="off", workers=workers, outside_after=told.pop("outside_after", 0))
        measurer = measurer or scripted(asr.__getitem__)
        plane = spans.span(chat, ("1d-random", "2d-random")[len(axes) - 1], config, measurer)
        team = crew(chat, config, len(asr), measurer)
        return landscape.landscape_on(crew_of(team.chats, measurer), plane, axes, ROWS, config, **told)

    return measure


class Shuffled(Crew):
    """Does its tasks in another order."""

    def run(self, tasks, work):
        tasks = list(tasks)
        yield from super().run(random.Random(3).sample(tasks, len(tasks)), work)


def line(left, right):
    """ASR by place: that of the model is 0, `left` is at -1, -2, … and `right` at 1, 2, …"""
    far = {(-1.0 - index,): asr for index, asr in enumerate(left)}
    return {(0.0,): 0.0, **far, **{(1.0 + index,): asr for index, asr in enumerate(right)}}


def random_plane(seed):
    """ASR by place on 7 by 7 points."""
    draw = random.Random(seed)
    return {place: draw.choice([0.0, 100.0, 100.0, 100.0]) for place in grid([range(-3, 4), range(-3, 4)])}


BOTH = line(left=[0, 100, 100, 100], right=[100, 100, 100, 100])


@pytest.mark.parametrize(
    ("outside_after", "asked_for"),
    [
        (1, [0, -1, 1, -2]),
        (2, [0, -1, 1, -2, 2, -3]),
        (3, [0, -1, 1, -2, 2, -3, 3, -4]),
        (0, [-4, 4, -3, 3, -2, 2, -1, 1, 0]),
    ],
)
def test_from_the_model_outward_points_past_the_edge_are_never_asked_and_hold_nothing(on, outside_after, asked_for):
    asked, told = [], []
    measurer = scripted(BOTH.__getitem__, asked)
    result, responses = on(
        BOTH, measurer, outside_after=outside_after, progress=lambda place, asr: told.append((*place, asr))
    )
    assert [step for (step,) in asked] == asked_for and result.axis == sorted(step for (step,) in BOTH)
    left_out = set(result.axis) - set(asked_for)
    for point in result.points:
        if point.x in left_out:
            assert all(map(math.isnan, (point.asr, point.asr_low, point.asr_high, point.coherent_asr)))
            assert (point.n_unjudged, point.verdicts) == (0, ())
        else:
            assert point.asr == BOTH[point.x,] and len(point.verdicts) == len(ROWS)
    assert [response.x for response in responses] == [step for step in sorted(asked_for) for _ in ROWS]
    assert [step for step, _ in told[: len(asked)]] == asked_for and sorted(step for step, _ in told) == result.axis
    assert {step for step, asr in told if math.isnan(asr)} == left_out


@pytest.mark.parametrize("outside_after", [1, 2])
@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("crew_of", [Crew, Shuffled])
def test_neither_workers_nor_their_order_decide_which_points_are_left_out(on, outside_after, n_workers, crew_of):
    for seed in range(3):
        asr = random_plane(seed)
        result, responses = on(asr, outside_after=outside_after, workers=n_workers, crew_of=crew_of)
        expected = past_the_edge([axis.steps for axis in result.axes], asr, outside_after)
        assert {(point.x, point.y) for point in result.points if not point.verdicts} == expected != set()
        measured = [place for place in grid([axis.steps for axis in result.axes]) if place not in expected]
        assert [(response.x, response.y) for response in responses] == [place for place in measured for _ in ROWS]
        assert result.visage == score.visage([asr[place] for place in measured])


def test_a_worker_that_ran_past_the_edge_leaves_no_trace_but_the_progress(on):
    alone, second_asked, told = on(BOTH, outside_after=1), threading.Event(), []

    def answer(chat, held, rows, ask):
        if held.steps == (1,):  # At 100, so 2 is to be left out; but it is asked before that is known.
            assert second_asked.wait(30)
        if held.steps == (2,):
            second_asked.set()
        return responses_of(rows, BOTH[held.steps])

    found = on(BOTH, StandIn(answer=answer), 3, outside_after=1, progress=lambda place, _: told.append(place))
    assert second_asked.is_set() and found == alone and sorted(told) == sorted(BOTH)


def test_points_that_are_known_are_told_of_and_not_asked_again(on):
    asked, told = [], []
    known = {(0.0,): landscape.measured_at((0.0,), responses_of(ROWS, 35.0), LandscapeConfig())}
    measurer = scripted(BOTH.__getitem__, asked)
    result, _ = on(BOTH, measurer, known=known, progress=lambda *point: told.append(point))
    assert len(asked) == 8 and (0.0,) not in asked and told[0] == ((0.0,), 35.0) and len(told) == 9
    assert result.asr[4] == 35.0 and list(known) == [(0.0,)]


# What could not be judged


@pytest.mark.parametrize("index", [0, 1])
def test_what_could_not_be_judged_is_nan_and_counted_and_left_out_of_the_score(on, index):
    asr = {place: NAN if place[index] == 0 else 10.0 * sum(map(abs, place)) for place in random_plane(0)}
    result, _ = on(asr)
    unjudged = [(point.x, point.y)[index] == 0 for point in result.points]
    assert [math.isnan(point.asr) for point in result.points] == unjudged and sum(unjudged) == 7
    assert [point.n_unjudged for point in result.points] == [len(ROWS) * each for each in unjudged]
    assert result.visage == score.visage([rate for rate in asr.values() if not math.isnan(rate)])
    along, across = result.axes[index].basin, result.axes[1 - index].basin
    assert all(map(math.isnan, (across.left, across.right, across.width, across.depth, across.sharpness)))
    assert not across.open_left and not across.open_right
    assert not math.isnan(along.width)  # Its middle, the model itself, is not known, but its ends are.


def test_a_grid_without_any_verdict_is_refused_in_one_line(on, chat):
    for asr in (BOTH, random_plane(0)):
        with pytest.raises(Mistake) as caught:
            on(dict.fromkeys(asr, NAN), salvage=lambda *part: pytest.fail("nothing to hand over"))
        assert repr(chat.uri) in str(caught.value) and "\n" not in str(caught.value) and "Check" in str(caught.value)


# Cut off


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError("disk")], ids=type)
def test_what_was_measured_is_handed_over_and_the_rest_is_missing(on, error):
    asr, parts = random_plane(1), []
    whole, answers = on(asr)

    def answer(chat, held, rows, ask):
        if held.steps == (0.0, 2.0):
            raise error
        return responses_of(rows, asr[held.steps])

    with pytest.raises(type(error)):
        on(asr, StandIn(answer=answer), salvage=lambda *part: parts.append(part))
    ((part, responses),) = parts
    measured = [point for point in part.points if point.verdicts]
    assert len(part.points) == 49 and 24 <= len(measured) < 40 and set(measured) < set(whole.points)
    assert all(math.isnan(point.asr) for point in part.points if not point.verdicts)
    assert responses == [one for one in answers if (one.x, one.y) in {(point.x, point.y) for point in measured}]


@pytest.mark.parametrize("n_unjudged", [0, 3])
def test_nothing_is_handed_over_where_nothing_was_measured_or_all_was(on, n_unjudged):
    def answer(chat, held, rows, ask):
        left.pop()  # Raises where none is left.
        return responses_of(rows, NAN)

    left = [None] * n_unjudged
    on(BOTH, salvage=lambda *part: pytest.fail("whole"))
    with pytest.raises(IndexError):
        on(BOTH, StandIn(answer=answer), salvage=lambda *part: pytest.fail("nothing"))


def test_a_part_is_logged_by_another_name_with_how_much_it_is(on):
    part, responses = on(BOTH, outside_after=2)
    run = mock.Mock()
    keep_part(part, responses, run, "direction_1")
    run.tag.assert_called_once_with("partial", "direction_1: 6 of 9 points")
    run.lines.assert_called_once_with(responses, "partial/direction_1_responses.jsonl")
    run.result.assert_called_once_with(part, "partial/direction_1.json")
