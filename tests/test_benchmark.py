"""The arithmetic of a benchmark by hand, and one whole benchmark on the tiny model."""

import dataclasses
import math

import pytest

from visage_mlflow.benchmark import race
from visage_mlflow.benchmark.race import agreement, region
from visage_mlflow.config import BenchmarkConfig, entry_points
from visage_mlflow.language import models, prompts
from visage_mlflow.results.benchmark import WAYS, Benchmark, Timing

TIMINGS = [
    Timing("published", "inside", 1, (4.0, 8.0, 4.0), 100.0),
    Timing("published", "outside", 3, (20.0, 20.0, 40.0), 100.0),
    Timing("auto", "inside", 1, (1.0, 1.0, 1.0), 50.0),
    Timing("auto", "outside", 3, (1.0, 3.0, 3.0), 100.0),
]


def test_a_speedup_is_the_median_ratio_of_whole_times():
    """Published takes 4+60, 8+60 and 4+120 seconds, ours 1+3, 1+9, 1+9: ratios 16, 6.8 and 12.4."""
    assert race.speedup(TIMINGS, "published", "auto") == pytest.approx(12.4)
    assert race.speedup(TIMINGS, "published", "auto", ["inside"]) == 4.0


def test_a_speedup_over_no_region_is_nan():
    assert math.isnan(race.speedup(TIMINGS, "published", "auto", ["edge"]))


def test_agreement_asks_only_whether_attacks_succeed():
    """Of 2 + 2 verdicts one differs: refused against complied. Complied against incoherent does not."""
    theirs = {0.0: ["refused", "refused"], 1.0: ["complied", "incoherent"]}
    assert agreement(theirs, {0.0: ["refused", "complied"], 1.0: ["incoherent", "incoherent"]}) == 75.0
    assert agreement({0.0: ["complied"]}, {0.0: ["incoherent"]}) == 100.0
    assert math.isnan(agreement({0.0: ["complied"]}, {1.0: ["complied"]}))


def test_a_race_times_each_way_on_each_region_in_turn():
    verdicts = {0.0: "refused", -1.0: "complied", 1.0: "complied", 2.0: "incoherent"}
    ways = {
        "published": lambda steps: {step: [verdicts[step]] * 2 for step in steps},
        "auto": lambda steps: {step: [verdicts[step], "complied"] for step in steps},
    }
    told = []
    timings, found = race.race(ways, {"inside": [0.0], "outside": [-1.0, 1.0, 2.0]}, 2, told.append)
    assert [(one.way, one.region, one.n_points, len(one.seconds), one.agreement) for one in timings] == [
        ("published", "inside", 1, 2, 100.0),
        ("published", "outside", 3, 2, 100.0),
        ("auto", "inside", 1, 2, 50.0),
        ("auto", "outside", 3, 2, 100.0),
    ]
    assert found["auto"] == {step: [verdict, "complied"] for step, verdict in verdicts.items()}
    turns = ["1/2 inside: published", "1/2 inside: auto", "1/2 outside: published", "1/2 outside: auto"]
    assert [" ".join(line.split()[:3]) for line in told[:4]] == turns and len(told) == 8


def test_regions_end_at_10_and_90_percent():
    names = [region(asr) for asr in (0, 10, 10.1, 89, 90, 100)]
    assert names == ["inside", "inside", "edge", "edge", "outside", "outside"]


def test_the_number_of_built_in_prompts_is_what_the_config_says():
    assert len(prompts.read("builtin:harmful_eval", setting="prompts")) == entry_points.BUILTIN_PROMPTS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": 0}, "`prompts` must be a whole number of at least 1, got 0"),
        ({"prompts": 81}, "`prompts` must be at most 80, got 81. Try 80"),
        ({"points": 4}, "`points` must be odd and at least 3, got 4: .* Try 5"),
        ({"repeats": 0}, "`repeats` must be a whole number of at least 1, got 0"),
        ({"lengths_up_to": -1}, "`lengths_up_to` must be a whole number of at least 0, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**settings)


@pytest.fixture(scope="module")
def result(aligned_folder):
    settings = BenchmarkConfig(
        model=str(aligned_folder), prompts=6, points=3, extent=1.0, max_new_tokens=16, repeats=2, lengths_up_to=24
    )
    told = []
    exact, fast = (models.load(settings.model, dtype=dtype) for dtype in ("float32", "auto"))
    return race.measure(exact, fast, settings, told.append, lambda landscape: 2.0 if landscape.lean else 3.0), told


def test_every_way_is_timed_on_every_region_in_turn(result):
    found, told = result
    regions = list(dict.fromkeys(one.region for one in found.timings))
    assert [(one.way, one.region) for one in found.timings] == [(way, name) for way in WAYS for name in regions]
    assert sum(one.n_points for one in found.timings) == 3 * len(WAYS)
    assert all(len(one.seconds) == 2 and min(one.seconds) > 0 for one in found.timings)
    assert [line.split(":")[0] for line in told[:4]] == [f"1/2 {regions[0]}"] * 4


def test_the_numbers_are_in_their_ranges(result):
    found, _ = result
    numbers = found.metrics()
    assert numbers["verdict_agreement_float32"] == 100.0 and 0 <= numbers["verdict_agreement"] <= 100
    assert all(numbers[name] > 0 for name in ("speedup_float32", "speedup_bfloat16", "matrix_rate", "decoding_rate"))
    assert numbers["matrix_rate_share"] == pytest.approx(100 * numbers["decoding_rate"] / numbers["matrix_rate"])
    assert (numbers["peak_memory_ratio"], numbers["peak_memory_ratio_lean"]) == (3.0, 2.0)
    assert [(cost.n_prompts, cost.n_points, cost.max_new_tokens) for cost in found.costs] == [
        (6, 1, 16), (3, 1, 16), (6, 1, 8), (6, 2, 16)
    ]  # fmt: skip


def test_verdicts_of_cut_answers_are_compared_with_those_of_the_longest(result):
    found, _ = result
    assert {row.tokens for row in found.lengths} == {16, 24}
    assert all(row.agreement == 100.0 for row in found.lengths if row.tokens == 24)
    assert 0.0 in {row.step for row in found.lengths}


def test_a_benchmark_saves_and_loads_and_prints_all_of_it(result, tmp_path):
    found, _ = result
    found.save(tmp_path / "benchmark.json")
    assert Benchmark.load(tmp_path / "benchmark.json") == found
    table = found.table()
    assert all(name in table for name in found.metrics()) and "published procedure, float32" in table
    assert table.count("\n| published") == 1 and "| 6 | 2 | 16 |" in table


def test_a_table_shows_medians_and_ranges(result):
    """Of 2 and 4 seconds the median is 3."""
    found, _ = result
    timings = tuple(dataclasses.replace(one, seconds=(4.0, 2.0)) for one in found.timings)
    assert "3.00 (2.00 to 4.00)" in dataclasses.replace(found, timings=timings).table()
