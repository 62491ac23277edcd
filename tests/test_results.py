"""Results save themselves as plain JSON and load back equal; what is no whole result is refused in one line."""

import dataclasses
import json
import math

import made
import pytest

from visage_mlflow import results
from visage_mlflow.results import Course, Edge, Evaluation, Landscape, Result, Trajectory, Turn, Visage
from visage_mlflow.results.base import SCHEMA_VERSION
from visage_mlflow.results.trajectory import rounded


@pytest.fixture
def file(tmp_path):
    return tmp_path / "result.json"


def refusal(result_class, path):
    with pytest.raises(ValueError) as caught:
        result_class.load(path)
    message = str(caught.value)
    assert "\n" not in message and repr(str(path)) in message
    return message


def changed(path, result, **changes):
    """The result's file with some top-level values replaced; a value of None takes the key out."""
    content = {**json.loads(result.to_json()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def test_every_kind_of_result_is_made_by_hand_once():
    kinds = {kind.kind: kind for kind in Result.__subclasses__()}
    assert {name: type(result) for name, result in made.ALL.items()} == kinds


@pytest.mark.parametrize("kind", made.ALL)
def test_a_result_loads_back_equal_and_of_the_same_text(kind, file):
    result = made.ALL[kind]
    result.save(file)
    loaded = type(result).load(str(file))
    assert loaded == result and hash(loaded) == hash(result) and loaded.to_json() == result.to_json()
    assert type(loaded) is type(result)


@pytest.mark.parametrize("kind", made.ALL)
def test_the_file_is_plain_json_with_null_for_what_was_not_measured(kind, file):
    made.ALL[kind].save(file)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["kind"] == kind and content["schema_version"] == SCHEMA_VERSION
    assert "null" in file.read_text(encoding="utf-8")


def test_what_was_not_measured_is_nan_again_and_all_types_are_back(file):
    made.ALL["landscape"].save(file)
    loaded = Landscape.load(file)
    assert math.isnan(loaded.points[3].asr) and isinstance(loaded.points, tuple)
    assert loaded.points[3].verdicts == ("unjudged",) * 4
    assert loaded.setup.system_prompt is None and loaded.setup == made.ALL["landscape"].setup
    (axis,) = loaded.axes
    assert (axis.kind, axis.seed, axis.norm, axis.relative_norm) == ("random", 0, "layer", 0.95)
    assert type(axis.seed) is int and axis.basin.open_left is False and loaded.basin == axis.basin
    assert axis.to is None and axis.angle is None and isinstance(axis.steps, tuple)


def test_numbers_keep_every_bit(file):
    number = 100 / 3 + 1e-14
    made.evaluation(asr=number).save(file)
    assert Evaluation.load(file).asr == number


def test_infinity_which_json_lacks_is_never_written(file):
    with pytest.raises(ValueError):
        made.evaluation(nll=math.inf).save(file)
    assert not file.exists()


def test_text_in_any_script_is_kept(file):
    result = made.landscape()
    odd = results.Setup(**{**vars(result.setup), "model": "模型/ñ “x”", "system_prompt": "Sé\nbreve\u2028"})
    result = Landscape(**{**vars(result), "setup": odd})
    result.save(file)
    assert Landscape.load(file) == result


def test_results_that_differ_in_anything_are_not_equal():
    assert made.evaluation(asr=25.0) == made.evaluation(asr=25.0)
    assert made.evaluation(asr=25.0) != made.evaluation(asr=25.000000000000004)
    assert made.evaluation(asr=math.nan) == made.evaluation(asr=math.nan) != made.evaluation()
    assert made.landscape() != made.visage() and made.landscape() != "landscape"


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, "1", None])
def test_another_schema_version_is_refused(version, file):
    changed(file, made.landscape(), schema_version=version)
    message = refusal(Landscape, file)
    assert f"schema version {SCHEMA_VERSION}" in message and repr(version) in message


@pytest.mark.parametrize("kind", ["visage", "Landscape", None])
def test_another_kind_is_refused(kind, file):
    changed(file, made.landscape(), kind=kind)
    assert "must hold a landscape" in refusal(Landscape, file)


def test_a_result_of_another_kind_is_refused_by_name(file):
    made.visage().save(file)
    message = refusal(Landscape, file)
    assert "must hold a landscape" in message and "'visage'" in message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_off_is_refused(share, file):
    text = made.visage().to_json()
    file.write_text(text[: int(share * len(text))], encoding="utf-8")
    assert "cannot be read as a visage" in refusal(Visage, file)


def test_a_file_that_is_missing_or_not_text_is_refused(file):
    assert "cannot be read as a landscape" in refusal(Landscape, file)
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as a landscape" in refusal(Landscape, file)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"landscape"', "{}"])
def test_json_that_is_no_result_is_refused(text, file):
    file.write_text(text, encoding="utf-8")
    assert "must hold a landscape" in refusal(Landscape, file)


def test_a_missing_value_is_refused_by_its_place(file):
    changed(file, made.landscape(), visage=None)
    message = refusal(Landscape, file)
    assert "is no whole landscape" in message and "visage: Field required" in message
    points = json.loads(made.landscape().to_json())["points"]
    del points[2]["asr_low"]
    changed(file, made.landscape(), points=points)
    assert "points.2.asr_low: Field required" in refusal(Landscape, file)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"asr": "high"}, "asr"),
        ({"asr": [1.0]}, "asr"),
        ({"n_unjudged": 1.5}, "n_unjudged"),
        ({"n_unjudged": "some"}, "n_unjudged"),
        ({"setup": "none"}, "setup"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_place(changes, place, file):
    changed(file, made.evaluation(), **changes)
    message = refusal(Evaluation, file)
    assert f"is no whole evaluation: {place}: " in message


@pytest.mark.parametrize("value", [-0.5, 100.5, 1e9, "Infinity"])
def test_a_rate_that_is_no_share_in_percent_is_refused(value, file):
    changed(file, made.evaluation(), asr=value)
    assert "asr: " in refusal(Evaluation, file) and "from 0 to 100" in refusal(Evaluation, file)


def test_a_landscape_without_one_of_its_points_is_refused(file):
    whole = made.landscape()
    points = json.loads(whole.to_json())["points"]
    changed(file, whole, points=points[:-1])
    assert f"a point for each of the grid's {len(points)} places, got {len(points) - 1}" in refusal(Landscape, file)


def test_null_is_refused_where_a_value_is_no_measurement(file):
    content = json.loads(made.evaluation().to_json())
    content["n_unjudged"] = None
    file.write_text(json.dumps(content), encoding="utf-8")
    assert "n_unjudged" in refusal(Evaluation, file)


def test_metrics_hold_every_number_and_only_numbers():
    evaluation = made.evaluation().metrics()
    assert set(evaluation) == {"asr", "asr_low", "asr_high", "coherent_asr", "over_refusal", "over_refusal_low",
                               "over_refusal_high", "benign_nll", "n_unjudged", "n_empty", "opening_only",
                               "n_unfinished"}  # fmt: skip
    landscape = made.landscape(is_open=(True, False)).metrics()
    assert landscape == {
        "visage": 66.7, "visage_contiguous": 60.0, "visage_depth": 50.0,
        "basin_left": -0.3, "basin_right": 0.4, "basin_width": 0.7,
        "basin_depth": 66.7, "basin_sharpness": 300.0, "basin_open_left": 1.0, "basin_open_right": 0.0,
        "relative_norm": 0.95,
    }  # fmt: skip
    visage = made.visage().metrics()
    assert visage["visage"] == 70.0 and visage["direction_1_basin_right"] == 0.4 and visage["basin_left"] == -0.3
    for numbers in (evaluation, landscape, visage):
        assert all(isinstance(value, int | float) for value in numbers.values())


def test_the_mean_edges_come_with_the_number_of_directions_that_are_open_there():
    opened = made.landscape(edges=(-0.5, 0.4), is_open=(True, False))
    metrics = dataclasses.replace(made.visage(), landscapes=(opened, made.landscape())).metrics()
    assert (metrics["basin_open_left"], metrics["basin_open_right"]) == (1.0, 0.0)
    assert metrics["basin_left"] == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("edges", "is_open", "said"),
    [
        ((-0.3, 0.4), (False, False), "-0.300 to +0.400"),
        ((-0.5, 0.4), (True, False), "-0.500 (open) to +0.400"),
        ((-0.5, 0.5), (True, True), "-0.500 (open) to +0.500 (open)"),
        ((0.0, 0.0), (False, False), "no basin"),
        ((math.nan, math.nan), (False, False), "not measured"),
    ],
)
def test_the_edges_of_a_basin_say_where_it_is_open(edges, is_open, said):
    assert made.landscape(edges=edges, is_open=is_open).basin.in_words == said


def test_metrics_of_a_plane_tell_its_axes_apart_and_leave_out_what_an_axis_lacks():
    metrics = made.plane_landscape().metrics()
    assert metrics["basin_right"] == metrics["y_basin_right"] == 0.7 and metrics["y_angle"] == 71.2
    assert "angle" not in metrics and not {"explained_variance", "y_explained_variance"} & set(metrics)


def test_a_landscape_gives_its_axis_and_its_rates_in_order():
    result = made.landscape((100.0, 50.0, 0.0))
    assert result.axis == [-0.5, 0.0, 0.5] and result.asr == [100.0, 50.0, 0.0]
    assert result.rows == [[100.0, 50.0, 0.0]]


def test_a_plane_has_a_row_for_each_step_along_y():
    rows = ((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0), (9.0, 10.0, 11.0, 12.0))
    result = made.plane_landscape(rows)
    assert result.rows == [list(row) for row in rows]
    assert [(point.x, point.y) for point in result.points[3:5]] == [(1.5, -0.5), (-0.5, 0.0)]


PLANES = {
    "landscape": made.plane_landscape(),
    "trajectory": made.plane_trajectory(),
}


@pytest.mark.parametrize("kind", PLANES)
def test_a_plane_loads_back_equal_with_its_axes_marks_and_edges(kind, file):
    result = PLANES[kind]
    result.save(file)
    loaded = type(result).load(file)
    assert loaded == result and loaded.to_json() == result.to_json()
    plane = loaded if kind == "landscape" else loaded.landscape
    assert plane.axes == PLANES["landscape"].axes and plane.marks == PLANES["landscape"].marks


def test_a_trajectory_gives_back_edges_open_closed_and_not_looked_for(file):
    made.plane_trajectory().save(file)
    loaded = Trajectory.load(file)
    first, second, third = loaded.courses
    assert first.edge.margin == pytest.approx(-0.71) and first.edge.measured == ((0.5, 25.0), (0.7, 100.0))
    assert second.edge.is_open is True and third.edge is None
    assert [place.uri for place in loaded.places] == ["models:/m-4", "models:/m-8"] * 2 + ["models:/m-8"]
    assert math.isnan(loaded.places[3].asr)


def test_a_file_of_the_first_schema_is_refused_with_the_cure(file):
    """As version 1 wrote it: steps of points, and a direction in place of axes."""
    point = {"step": 0.0, "asr": 0.0, "asr_low": 0.0, "asr_high": 20.0, "coherent_asr": 0.0, "n_unjudged": 0}
    old = {"schema_version": 1, "kind": "landscape", "plane": "1d-random", "direction": {"kind": "random", "seed": 0},
           "points": [{**point, "verdicts": ["refused"]}], "visage": 100.0}  # fmt: skip
    file.write_text(json.dumps(old), encoding="utf-8")
    message = refusal(Landscape, file)
    assert f"schema version {SCHEMA_VERSION}" in message and "1)" in message and "Measure it again" in message


# Margins in words


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.31, 0.23, 0.39), "0.3 (0.2 to 0.4)"),
        ((0.31, 0.27, 0.35), "0.31 (0.27 to 0.35)"),
        ((31.2, 18.0, 47.0), "30 (10 to 50)"),
        ((-0.02, -0.3, 0.3), "0.0 (-0.3 to 0.3)"),
        ((0.25, 0.25, 0.25), "0.25 (0.25 to 0.25)"),
        ((math.nan, math.nan, math.nan), "not measured"),
        ((0.314159, math.nan, math.nan), "0.31"),
        ((37.4, 21.0, 60.0), "40 (20 to 60)"),
        ((1234.0, 800.0, 1700.0), "1200 (800 to 1700)"),
        ((123.4, math.nan, math.nan), "120"),
        ((0.00001234, math.nan, math.nan), "0.000012"),
        ((99.9, math.nan, math.nan), "100"),
    ],
)
def test_a_number_has_no_digits_beyond_its_interval(given, said):
    assert rounded(*given) == said


def test_an_interval_without_an_end_and_a_number_that_is_a_bound_say_so():
    assert rounded(0.31, 0.23, 3.0, high_is_open=True, sign="+") == "+0.3 (+0.2 or more)"
    assert rounded(3.0, 2.64, 3.0, is_open=True, high_is_open=True, sign="+") == "at least +2.6"


def test_only_a_model_that_is_outside_itself_has_left():
    def standing(asr):
        return Course("c", (made.place(4, 1.0, asr),), made.edge(0.6)).standing

    assert made.edge(0.6).margin < 0
    assert standing(45.0).startswith("has not left") and "reaches it" in standing(45.0)
    assert standing(30.0).startswith("has not left") and "whole" in standing(30.0)
    assert standing(50.0).startswith("has left") and "begins below" in standing(50.0)
    assert standing(80.0).startswith("has left") and "whole" in standing(80.0)
    assert standing(math.nan) == "its own ASR was not measured"


def test_an_edge_says_what_one_number_hides():
    assert made.edge().remark == ""
    turns = (Turn(0.3, True), Turn(0.5, False))
    assert made.edge(turns=turns).remark == "The ASR crosses 50 % at 0.3 (out), 0.5 (in) of the way."
    both = made.edge(turns=turns, falls=True).remark
    assert both.startswith("The ASR falls again") and both.endswith(
        "it crosses 50 % at 0.3 (out), 0.5 (in) of the way."
    )
    assert made.edge(0.3).distance_in_words == "0.06 (0.04 to 0.08) % of the norm"


def test_a_model_that_is_outside_itself_has_no_margin_and_nothing_leaves_from_there():
    edge = Edge(0.0, 0.0, False, ((0.0, 55.0),), low=0.0, high=0.0, high_is_open=True)
    assert edge.starts_outside and not made.edge().starts_outside
    assert edge.margin_in_words == edge.distance_in_words == "none: the base itself is outside"
    course = Course("c", (made.place(4, 1.0, 60.0),), edge, base_asr=55.0)
    assert course.standing.startswith("is outside, where it began: its own ASR, 60.0 %")
    assert course.margin_sentence.endswith("the base itself is outside, so there is none")
    back = dataclasses.replace(course, places=(made.place(4, 1.0, 20.0),))
    assert back.standing.startswith("is inside of the edge, though it began outside")
    assert "outside, so there is none" in edge.random_sentence


def test_a_margin_that_is_missing_says_why():
    course = Course("c", (made.place(4, 1.0, 60.0),), None, base_asr=10.0)
    assert course.margin_sentence == "margin to the edge (ASR 50 %): not looked for"
    unjudged = dataclasses.replace(course, base_asr=math.nan)
    assert unjudged.margin_sentence.endswith("the model's own answers could not be judged")


def test_an_edge_in_a_random_direction_says_how_finely_it_was_looked_for_and_what_the_number_hides():
    turns = (Turn(0.3, True), Turn(0.5, False))
    said = made.edge(0.3, turns=turns, resolution=0.0625).random_sentence
    assert "0.06 (0.04 to 0.08) % of the norm (looks at most 0.062 steps apart). The ASR crosses 50 %" in said


def test_the_mean_depth_stands_with_its_interval():
    assert made.visage().depth_in_words == "45.0 (40.0 to 50.0)"
    assert dataclasses.replace(made.visage(), visage_depth_low=math.nan).depth_in_words == "45.0"


@pytest.mark.parametrize(
    ("n_empty", "n_unjudged", "said"),
    [(0, 0, ""), (3, 0, "3 empty"), (0, 2, "2 unjudged"), (3, 2, "3 empty and 2 unjudged")],
)
def test_answers_in_no_rate_are_counted_where_there_are_any(n_empty, n_unjudged, said):
    left_out = dataclasses.replace(made.evaluation(), n_empty=n_empty, n_unjudged=n_unjudged).left_out
    assert left_out == (f"; left out of the rates: {said}" if said else "")
