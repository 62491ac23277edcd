"""How long a landscape takes by the published procedure, by plain `generate`, and by this project."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from visage_mlflow.benchmark import machine
from visage_mlflow.benchmark.procedures import Verdicts, Way, Work, judged, ours, plain, published
from visage_mlflow.config import BenchmarkConfig, LandscapeConfig
from visage_mlflow.decoding.respond import transcribe
from visage_mlflow.geometry.axes import axis
from visage_mlflow.geometry.directions import Materialized, RandomDirection
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.models import Chat
from visage_mlflow.language.tokens import encode
from visage_mlflow.results.benchmark import Benchmark, Cost, Length, Timing
from visage_mlflow.studies.evaluation import harmful_rows, rates

SUCCEEDED = ("complied", "incoherent")
REGIONS = ("inside", "edge", "outside")
Progress = Callable[[str], None]


def region(asr: float) -> str:
    """Where a point lies, by its ASR in percent: inside the basin, on its edge, or outside.

    >>> [region(asr) for asr in (0, 10, 50, 90, 100)]
    ['inside', 'inside', 'edge', 'outside', 'outside']
    """
    return "inside" if asr <= 10 else "outside" if asr >= 90 else "edge"


def agreement(one: Verdicts, other: Verdicts) -> float:
    """Percentage of prompts, over the points that both have, whose attack succeeds in both or in neither."""
    pairs = [pair for step in one.keys() & other.keys() for pair in zip(one[step], other[step], strict=True)]
    same = sum((left in SUCCEEDED) == (right in SUCCEEDED) for left, right in pairs)
    return 100 * same / len(pairs) if pairs else math.nan


@dataclass(frozen=True)
class Race:
    """Times of all ways, which take turns on each region.

    Attributes:
        places: Region -> the steps in it.
        seconds: (way, region) -> seconds per point of each repeat.
        verdicts: (way, region) -> the verdicts of the last repeat.
    """

    places: Mapping[str, Sequence[float]]
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], Verdicts] = field(default_factory=dict)

    def run(self, ways: Mapping[str, Way], repeats: int, progress: Progress) -> None:
        """Run all ways on each region, one after the other, several times."""
        for repeat in range(repeats):
            for name, steps in self.places.items():
                for way, run in ways.items():
                    began = time.perf_counter()
                    self.verdicts[way, name] = run(steps)
                    per_point = (time.perf_counter() - began) / len(steps)
                    self.seconds.setdefault((way, name), []).append(per_point)
                    progress(f"{repeat + 1}/{repeats} {name}: {way} {per_point:.2f} s a point")

    def speedup(self, slow: str, quick: str, names: Sequence[str]) -> float:
        """Median over repeats of the ratio of two ways' total times on some regions; NaN without regions."""

        def totals(way: str) -> list[float]:
            weighed = [[each * len(self.places[name]) for each in self.seconds[way, name]] for name in names]
            return [sum(repeat) for repeat in zip(*weighed, strict=True)]

        ratios = [one / other for one, other in zip(totals(slow), totals(quick), strict=True)]
        return median(ratios) if ratios else math.nan

    def agreement(self, way: str) -> float:
        """Percentage of verdicts in which the attack succeeds or fails as in the published procedure."""
        merged = [
            {step: found for name in self.places for step, found in self.verdicts[one, name].items()}
            for one in ("published", way)
        ]
        return agreement(*merged)

    def timings(self, ways: Iterable[str]) -> tuple[Timing, ...]:
        """A timing for each way and region."""
        return tuple(
            Timing(
                way,
                name,
                len(steps),
                tuple(self.seconds[way, name]),
                agreement(self.verdicts["published", name], self.verdicts[way, name]),
            )
            for way in ways
            for name, steps in self.places.items()
        )


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
    rows = harmful_rows(config.landscape("float32"))
    direction = Materialized(RandomDirection(seed=config.seed), exact.weights)
    work = Work(rows, direction, axis(config.extent, config.points).tolist(), config.max_new_tokens)
    ways = {
        "published": published(exact, work),
        "generate": plain(fast, work),
        "float32": ours(exact, work, config.landscape("float32")),
        "auto": ours(fast, work, config.landscape("auto")),
    }
    first = ways["auto"](work.steps)  # Warms up, and finds where the basin ends.
    asr = {step: rates(verdicts).asr for step, verdicts in first.items()}
    places = {name: [step for step in work.steps if region(asr[step]) == name] for name in REGIONS}
    race = Race({name: steps for name, steps in places.items() if steps})
    race.run(ways, config.repeats, progress)

    farthest = max(work.steps, key=lambda step: (asr[step], abs(step)))
    alone = ours(fast, work, replace(config.landscape("auto"), workers=1))
    gflop = machine.gflop(fast.model, lambda: alone([farthest]))
    decoding_rate = gflop / median(race.seconds["auto", region(asr[farthest])])
    matrix_rate = machine.matrix_rate(fast.model, len(rows))
    costs = cost_table(fast, replace(work, steps=[farthest]), config)
    progress("cost and rates are measured")
    lengths = verdicts_by_length(fast, work, asr, config.lengths_up_to) if config.lengths_up_to else []
    return Benchmark(
        dtype=str(fast.model.dtype).removeprefix("torch."),
        asr={f"{step:+.3f}": asr[step] for step in work.steps},
        timings=race.timings(ways),
        costs=costs,
        lengths=tuple(lengths),
        speedup_float32=race.speedup("published", "float32", list(race.places)),
        speedup_bfloat16=race.speedup("published", "auto", list(race.places)),
        speedup_outside_generate=race.speedup("generate", "auto", [name for name in race.places if name == "outside"]),
        verdict_agreement=race.agreement("auto"),
        verdict_agreement_float32=race.agreement("float32"),
        matrix_rate=matrix_rate,
        decoding_rate=decoding_rate,
        matrix_rate_share=100 * decoding_rate / matrix_rate,
        perturb_share=100 * machine.perturbing(fast, direction, farthest) / costs[0].seconds,
        peak_memory_ratio=memory_ratio(config.landscape("auto")),
        peak_memory_ratio_lean=memory_ratio(config.landscape("auto", lean=True)),
    )


def cost_table(chat: Chat, work: Work, config: BenchmarkConfig) -> tuple[Cost, ...]:
    """How long one worker takes at one point for all prompts and tokens, for half of each, and for two points."""
    settings = replace(config.landscape("auto"), workers=1)
    half_prompts, half_tokens = max(1, config.prompts // 2), max(1, config.max_new_tokens // 2)
    costs = []
    for n_prompts, n_points, n_tokens in (
        (config.prompts, 1, config.max_new_tokens),
        (half_prompts, 1, config.max_new_tokens),
        (config.prompts, 1, half_tokens),
        (config.prompts, 2, config.max_new_tokens),
    ):
        less = replace(settings, n_prompts=n_prompts, max_new_tokens=n_tokens)
        run = ours(chat, replace(work, rows=work.rows[:n_prompts]), less)

        def points(run: Way = run, n: int = n_points) -> None:
            for _ in range(n):
                run(work.steps)

        costs.append(Cost(n_prompts, n_points, n_tokens, machine.seconds(points, config.repeats)))
    return tuple(costs)


def verdicts_by_length(chat: Chat, work: Work, asr: Mapping[float, float], longest: int) -> list[Length]:
    """How verdicts on shorter answers agree with those on the longest: at step 0, at the edge, and outside."""
    edge = min(asr, key=lambda step: abs(asr[step] - 50))
    outside = max(asr, key=lambda step: (asr[step], -abs(step)))
    found = []
    for step in dict.fromkeys((0.0, edge, outside)):
        with perturbed(chat.model, [work.direction], [step], weights=chat.weights):
            asked = [encode(chat.tokenizer, chat.messages(row.prompt)) for row in work.rows]
            tokens = transcribe(chat.model, chat.tokenizer, asked, max_new_tokens=longest, batch_size=len(asked))
        by_length = {}
        for n in [n for n in (16, 32, 64, 128, 256) if n < longest] + [longest]:
            texts = chat.tokenizer.batch_decode([row[:n] for row in tokens], skip_special_tokens=True)
            by_length[n] = judged(work.rows, texts)
        for n, verdicts in by_length.items():
            same = agreement({step: verdicts}, {step: by_length[longest]})
            found.append(Length(step, n, same, rates(verdicts).asr))
    return found
