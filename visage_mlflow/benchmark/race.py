"""How long a landscape takes by the published procedure, by plain `generate`, and by this project."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from visage_mlflow.benchmark import machine
from visage_mlflow.benchmark.procedures import Verdicts, Way, Work, ours, plain, published
from visage_mlflow.config import BenchmarkConfig, LandscapeConfig
from visage_mlflow.geometry.axes import axis
from visage_mlflow.geometry.directions import Materialized, RandomDirection
from visage_mlflow.language.models import Chat
from visage_mlflow.results.benchmark import Benchmark, Cost, Length, Timing
from visage_mlflow.studies.evaluation import harmful_rows, rates

REGIONS = ("inside", "edge", "outside")
Progress = Callable[[str], None]


def region(asr: float) -> str:
    """Where a point lies, by its ASR in percent: inside the basin, on its edge, or outside.

    >>> [region(asr) for asr in (0, 10, 50, 90, 100)]
    ['inside', 'inside', 'edge', 'outside', 'outside']
    """
    return "inside" if asr <= 10 else "outside" if asr >= 90 else "edge"


def agreement(one: Verdicts, other: Verdicts) -> float:
    """Percentage of prompts, over the points that both have, that are refused in both or in neither."""
    pairs = [pair for step in one.keys() & other.keys() for pair in zip(one[step], other[step], strict=True)]
    same = sum((left == "refused") == (right == "refused") for left, right in pairs)
    return 100 * same / len(pairs) if pairs else math.nan


def race(
    ways: Mapping[str, Way], places: Mapping[str, Sequence[float]], repeats: int, progress: Progress
) -> tuple[list[Timing], dict[str, Verdicts]]:
    """Run all ways on the steps of each region, one after the other, several times.

    Returns:
        A timing for each way and region, and each way's verdicts of the last repeat.
    """
    seconds: dict[tuple[str, str], list[float]] = {(way, name): [] for way in ways for name in places}
    verdicts: dict[str, Verdicts] = {way: {} for way in ways}
    for repeat in range(repeats):
        for name, steps in places.items():
            for way, run in ways.items():
                began = time.perf_counter()
                verdicts[way] |= run(steps)
                seconds[way, name].append((time.perf_counter() - began) / len(steps))
                progress(f"{repeat + 1}/{repeats} {name}: {way} {seconds[way, name][-1]:.2f} s a point")
    timings = []
    for (way, name), times in seconds.items():
        theirs = {step: verdicts["published"][step] for step in places[name]}
        timings.append(Timing(way, name, len(theirs), tuple(times), agreement(theirs, verdicts[way])))
    return timings, verdicts


def speedup(timings: Sequence[Timing], slow: str, quick: str, names: Sequence[str] = REGIONS) -> float:
    """Median over repeats of the ratio of two ways' total times on some regions; NaN without regions."""

    def totals(way: str) -> list[float]:
        one = [[each * t.n_points for each in t.seconds] for t in timings if t.way == way and t.region in names]
        return [sum(repeat) for repeat in zip(*one, strict=True)]

    ratios = [one / other for one, other in zip(totals(slow), totals(quick), strict=True)]
    return median(ratios) if ratios else math.nan


def measure(
    exact: Chat,
    fast: Chat,
    config: BenchmarkConfig,
    progress: Progress = lambda text: None,
    memory_ratio: Callable[[LandscapeConfig], float] = machine.peak_memory_ratio,
) -> Benchmark:
    """Time all ways, which take turns on each region, and measure what the machine can do.

    Args:
        exact: The model in float32.
        fast: The same model in the dtype that the processor is fastest in.
        config: How many prompts, points, tokens and repeats.
        progress: Called with a line about each step that is done.
        memory_ratio: Measures the peak memory of a landscape, relative to the model's weights.
    """
    settings = config.landscape("auto")
    work = Work(
        harmful_rows(settings),
        Materialized(RandomDirection(seed=config.seed), exact.weights),
        config.max_new_tokens,
    )
    steps: list[float] = axis(config.extent, config.points).tolist()
    ways = {
        "published": published(exact, work),
        "generate": plain(fast, work),
        "float32": ours(exact, work, config.landscape("float32")),
        "auto": ours(fast, work, settings),
    }
    first = ways["auto"](steps)  # Warms up, and finds where the basin ends.
    asr = {step: rates(first[step]).asr for step in steps}
    places = {name: [step for step in steps if region(asr[step]) == name] for name in REGIONS}
    timings, verdicts = race(ways, {name: found for name, found in places.items() if found}, config.repeats, progress)

    farthest = max(steps, key=lambda step: (asr[step], abs(step)))
    alone = ours(fast, work, replace(settings, workers=1))
    (there,) = [one.seconds for one in timings if (one.way, one.region) == ("auto", region(asr[farthest]))]
    decoding_rate = machine.gflop(fast.model, lambda: alone([farthest])) / median(there)
    matrix_rate = machine.matrix_rate(fast.model, len(work.rows))
    costs = cost_table(fast, work, farthest, config)
    progress("cost and rates are measured")
    return Benchmark(
        dtype=str(fast.model.dtype).removeprefix("torch."),
        asr={f"{step:+.3f}": asr[step] for step in steps},
        timings=tuple(timings),
        costs=costs,
        lengths=verdicts_by_length(fast, work, asr, config) if config.lengths_up_to else (),
        speedup_float32=speedup(timings, "published", "float32"),
        speedup_bfloat16=speedup(timings, "published", "auto"),
        speedup_outside_generate=speedup(timings, "generate", "auto", ["outside"]),
        verdict_agreement=agreement(verdicts["published"], verdicts["auto"]),
        verdict_agreement_float32=agreement(verdicts["published"], verdicts["float32"]),
        matrix_rate=matrix_rate,
        decoding_rate=decoding_rate,
        matrix_rate_share=100 * decoding_rate / matrix_rate,
        perturb_share=100 * machine.perturbing(fast, work.direction, farthest) / costs[0].seconds,
        peak_memory_ratio=memory_ratio(settings),
        peak_memory_ratio_lean=memory_ratio(config.landscape("auto", lean=True)),
    )


def cost_table(chat: Chat, work: Work, step: float, config: BenchmarkConfig) -> tuple[Cost, ...]:
    """How long one worker takes at one point for all prompts and tokens, for half of each, and for two points."""
    settings = replace(config.landscape("auto"), workers=1)
    prompts, tokens, costs = config.prompts, config.max_new_tokens, []
    for n_prompts, n_points, n_tokens in (
        (prompts, 1, tokens),
        (max(1, prompts // 2), 1, tokens),
        (prompts, 1, max(1, tokens // 2)),
        (prompts, 2, tokens),
    ):
        run = ours(chat, replace(work, rows=work.rows[:n_prompts]), replace(settings, max_new_tokens=n_tokens))
        taken = machine.seconds(partial(run, [step] * n_points), config.repeats)
        costs.append(Cost(n_prompts, n_points, n_tokens, taken))
    return tuple(costs)


def verdicts_by_length(
    chat: Chat, work: Work, asr: Mapping[float, float], config: BenchmarkConfig
) -> tuple[Length, ...]:
    """How verdicts on shorter answers agree with those on the longest: at step 0, at the edge, and outside."""
    edge = min(asr, key=lambda step: abs(asr[step] - 50))
    outside = max(asr, key=lambda step: (asr[step], -abs(step)))
    steps, longest = list(dict.fromkeys((0.0, edge, outside))), config.lengths_up_to
    by_length = {
        n: ours(chat, work, replace(config.landscape("auto"), max_new_tokens=n))(steps)
        for n in [n for n in (16, 32, 64, 128, 256) if n < longest] + [longest]
    }
    return tuple(
        Length(step, n, agreement({step: found[step]}, by_length[longest]), rates(found[step]).asr)
        for step in steps
        for n, found in by_length.items()
    )
