"""What there is of a landscape that was cut off: handed over, as far as it was measured, and told from a whole one."""

import dataclasses
import math

import pytest

from visage_mlflow.commands.landscape import keep_part
from visage_mlflow.config import LandscapeConfig, VisageConfig
from visage_mlflow.results import Landscape
from visage_mlflow.studies import landscape
from visage_mlflow.studies.evaluation import attack
from visage_mlflow.tracking import runs


@pytest.fixture(scope="module")
def asking(aligned_folder, sets):
    return {
        "model": str(aligned_folder),
        "prompts": str(sets / "harmful_eval.jsonl"),
        "n_prompts": 8,
        "max_new_tokens": 8,
        "dtype": "float32",
        "workers": 1,
    }


@pytest.fixture
def cut(monkeypatch):
    """A function that lets some points be measured, and then fails."""

    def after(n_points, error):
        left = [n_points]

        def attacked(chat, rows, config, steps, check):
            if left[0] == 0:
                raise error
            left[0] -= 1
            return attack(chat, rows, config, steps, check)

        monkeypatch.setattr(landscape, "attack", attacked)

    return after


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), ValueError("disk")], ids=lambda one: type(one).__name__
)
def test_what_was_measured_is_handed_over_and_the_rest_is_missing(chat, asking, cut, error):
    config = LandscapeConfig(plane="2d-random", n_points=3, **asking)
    whole, answers = landscape.measure(chat, config)
    cut(4, error)
    parts = []
    with pytest.raises(type(error)):
        landscape.measure(chat, config, salvage=lambda *part: parts.append(part))
    ((part, responses),) = parts
    measured = [point for point in part.points if point.verdicts]
    assert len(part.points) == 9 and len(measured) == 4 and set(measured) < set(whole.points)
    assert all(math.isnan(point.asr) for point in part.points if not point.verdicts)
    assert responses == [one for one in answers if (one.x, one.y) in {(point.x, point.y) for point in measured}]


def test_nothing_is_handed_over_where_nothing_was_measured_or_all_was(chat, asking, cut):
    config = LandscapeConfig(n_points=3, **asking)
    landscape.measure(chat, config, salvage=lambda *part: pytest.fail("whole"))
    cut(0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        landscape.measure(chat, config, salvage=lambda *part: pytest.fail("nothing"))


def test_of_visage_every_direction_is_handed_over_the_last_one_in_part(chat, asking, cut):
    config = VisageConfig(n_directions=3, n_points=5, **asking)
    whole, _ = landscape.measure_visage(chat, config)
    cut(5 + 2, KeyboardInterrupt())  # The model itself is measured once for all directions.
    parts = []
    with pytest.raises(KeyboardInterrupt):
        landscape.measure_visage(chat, config, salvage=lambda *part: parts.append(part))
    assert [index for index, *_ in parts] == [0, 1]
    assert parts[0][1] == whole.landscapes[0]
    assert sum(bool(point.verdicts) for point in parts[1][1].points) == 3


def test_a_part_is_logged_by_another_name_with_how_much_it_is(client, chat, asking, tmp_path):
    config = LandscapeConfig(n_points=3, **asking)
    whole, responses = landscape.measure(chat, config)
    missing = dataclasses.replace(whole.points[0], asr=math.nan, verdicts=())
    part = dataclasses.replace(whole, points=(missing, *whole.points[1:]))
    with pytest.raises(KeyboardInterrupt), runs.tracked("landscape", config) as run:
        keep_part(part, responses, run)
        raise KeyboardInterrupt
    found = client.get_run(run.id)
    assert found.info.status == "KILLED" and found.data.tags["visage.partial"] == "landscape: 2 of 3 points"
    assert sorted(file.path for file in client.list_artifacts(run.id)) == ["config.json", "partial"]
    assert Landscape.load(client.download_artifacts(run.id, "partial/landscape.json", str(tmp_path))) == part
