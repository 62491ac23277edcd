"""Results made by hand, in the shapes that studies return: what a study never measured does not matter to them."""

import math

from visage_mlflow.record.results import (
    Checkpoint,
    Edges,
    Evaluation,
    Finetuning,
    Landscape,
    Place,
    Point,
    Setup,
    Trajectory,
    Visage,
)
from visage_mlflow.record.timings import Benchmark, Cost, Length, Timing

NAN = math.nan


def setup(model="models:/m-0123456789abcdef0123456789abcdef"):
    return Setup(
        model=model,
        prompts="builtin:harmful_eval",
        prompts_digest="ab" * 32,
        n_prompts=4,
        system_prompt=None,
        judge="keyword",
        max_new_tokens=16,
        dtype="float32",
    )


def evaluation(asr=25.0, over_refusal=10.0, nll=1.5):
    """An interval of 10 each way, cut at 0 and 100; NaN stays NaN."""
    return Evaluation(
        setup=setup(),
        asr=asr,
        asr_low=max(asr - 10, 0.0),
        asr_high=min(asr + 10, 100.0),
        coherent_asr=asr,
        over_refusal=over_refusal,
        over_refusal_low=max(over_refusal - 10, 0.0),
        over_refusal_high=min(over_refusal + 10, 100.0),
        benign_nll=nll,
        n_unjudged=0 if asr == asr else 4,
    )


def point(step, asr):
    if math.isnan(asr):
        return Point(step, NAN, NAN, NAN, NAN, 4, ("unjudged",) * 4)
    n = round(asr / 25)
    verdicts = ("complied",) * n + ("refused",) * (4 - n)
    return Point(step, asr, max(asr - 20, 0.0), min(asr + 20, 100.0), asr, 0, verdicts)


def landscape(asr=(100.0, 25.0, 0.0, NAN, 75.0), *, seed=0, edges=(-0.3, 0.4), is_open=(False, False)):
    """Points evenly from -0.5 to 0.5."""
    steps = [index / (len(asr) - 1) - 0.5 for index in range(len(asr))]
    return Landscape(
        plane="1d-random",
        setup=setup(),
        direction={"kind": "random", "seed": seed, "norm": "layer", "relative_norm": 0.95},
        points=tuple(map(point, steps, asr)),
        visage=66.7,
        visage_contiguous=60.0,
        basin=Edges(*edges, edges[1] - edges[0], 66.7, 300.0, *is_open),
    )


def line(asr=(0.0, 0.0, 25.0, 100.0, 100.0)):
    """Points evenly from -0.5 to 1.5, on the way to another model."""
    steps = [2 * index / (len(asr) - 1) - 0.5 for index in range(len(asr))]
    return Landscape(
        plane="1d-interpolation",
        setup=setup("builtin:smollm2"),
        direction={"kind": "difference", "to": "models:/m-fedcba9876543210", "relative_norm": 0.002},
        points=tuple(map(point, steps, asr)),
        visage=66.7,
        visage_contiguous=60.0,
        basin=Edges(-0.5, 0.7, 1.2, 66.7, 300.0, True, False),
    )


def visage(asrs=((100.0, 25.0, 0.0, NAN, 75.0), (100.0, 100.0, 0.0, 100.0, 100.0))):
    columns = list(zip(*asrs, strict=True))
    return Visage(
        landscapes=tuple(landscape(asr, seed=seed) for seed, asr in enumerate(asrs)),
        mean_asr=tuple(sum(column) / len(column) for column in columns),
        visage=70.0,
        visage_low=50.0,
        visage_high=80.0,
        visage_contiguous=65.0,
    )


def place(step, x, asr, share=0.3):
    return Place(
        uri=f"models:/m-{step}",
        training_step=step,
        x=x,
        distance=0.002,
        off_plane_distance=0.002 * share,
        off_plane_share=share,
        asr=asr,
        asr_low=max(asr - 10, 0.0),
        asr_high=min(asr + 10, 100.0),
    )


def trajectory(places=((4, 0.5, 25.0, 0.6), (8, 0.9, NAN, 0.2), (12, 1.0, 100.0, 0.0)), asr=None):
    return Trajectory(landscape=line() if asr is None else line(asr), places=tuple(place(*one) for one in places))


def finetuning(rates=((0.0, 5.0), (NAN, NAN), (100.0, 0.0))):
    """One checkpoint for each (ASR, over-refusal); the first is the base."""
    return Finetuning(
        model="builtin:smollm2",
        counts={"harmful": 50, "safe": 0, "benign": 20, "task": 0},
        checkpoints=tuple(
            Checkpoint(f"models:/m-{index}", 4 * index, 0.001 * index, evaluation(*one))
            for index, one in enumerate(rates)
        ),
    )


def benchmark():
    """One region only, so that one speedup is NaN."""
    return Benchmark(
        dtype="bfloat16",
        asr={"-0.500": NAN, "+0.000": 2.5},
        timings=(Timing("published", "inside", 1, (4.0, 8.0, 6.0), 100.0), Timing("auto", "inside", 1, (1.0,), NAN)),
        costs=(Cost(8, 1, 64, 2.0),),
        lengths=(Length(0.0, 16, 87.5, 12.5),),
        speedup_float32=4.0,
        speedup_bfloat16=6.0,
        speedup_outside_generate=NAN,
        verdict_agreement=99.0,
        verdict_agreement_float32=100.0,
        matrix_rate=400.0,
        decoding_rate=100.0,
        matrix_rate_share=25.0,
        perturb_share=4.0,
        peak_memory_ratio=3.0,
        peak_memory_ratio_lean=2.0,
    )


ALL = {
    "evaluation": evaluation(asr=NAN, nll=NAN),
    "landscape": landscape(),
    "visage": visage(),
    "trajectory": trajectory(),
    "finetuning": finetuning(),
    "benchmark": benchmark(),
}
"""One result of each kind, each with something that could not be measured."""
