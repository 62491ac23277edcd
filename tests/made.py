"""Results made by hand, in the shapes that studies return: what a study never measured does not matter to them."""

import math

import optuna

from visage_mlflow.results import (
    Axis,
    Check,
    Checkpoint,
    Comparison,
    Course,
    Difference,
    Edge,
    Edges,
    Evaluation,
    Finetuning,
    Landscape,
    Mark,
    Place,
    Point,
    Response,
    Search,
    Setup,
    Trajectory,
    Trial,
    Visage,
)
from visage_mlflow.results.benchmark import Benchmark, Cost, Length, Timing

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


def response(prompt="p", verdict="refused"):
    return Response(prompt, "text", verdict)


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


def point(x, asr, y=0.0):
    """Of four prompts; with an interval of 20 each way."""
    if math.isnan(asr):
        return Point(x, y, NAN, NAN, NAN, NAN, 4, ("unjudged",) * 4)
    n = round(asr / 25)
    verdicts = ("complied",) * n + ("refused",) * (4 - n)
    return Point(x, y, asr, max(asr - 20, 0.0), min(asr + 20, 100.0), asr, 0, verdicts)


def skipped(x, y=0.0):
    """A point that `outside_after` leaves out."""
    return Point(x, y, NAN, NAN, NAN, NAN, 0, ())


def evenly(first, last, n):
    return tuple(first + (last - first) * index / (n - 1) for index in range(n))


def random_axis(steps, *, seed=0, edges=(-0.3, 0.4), is_open=(False, False), **more):
    basin = Edges(*edges, edges[1] - edges[0], 66.7, 300.0, *is_open)
    return Axis("random", 0.95, steps, basin, seed=seed, norm="layer", **more)


def landscape(asr=(100.0, 25.0, 0.0, NAN, 75.0), *, seed=0, edges=(-0.3, 0.4), is_open=(False, False)):
    """Points evenly from -0.5 to 0.5."""
    steps = evenly(-0.5, 0.5, len(asr))
    return Landscape(
        plane="1d-random",
        setup=setup(),
        axes=(random_axis(steps, seed=seed, edges=edges, is_open=is_open),),
        marks=(),
        points=tuple(map(point, steps, asr)),
        visage=66.7,
        visage_contiguous=60.0,
        visage_depth=50.0,
    )


def line(asr=(0.0, 0.0, 25.0, 100.0, 100.0)):
    """Points evenly from -0.5 to 1.5, on the way to another model."""
    steps = evenly(-0.5, 1.5, len(asr))
    basin = Edges(-0.5, 0.7, 1.2, 66.7, 300.0, True, False)
    return Landscape(
        plane="1d-interpolation",
        setup=setup("builtin:smollm2"),
        axes=(Axis("difference", 0.002, steps, basin, to="models:/m-fedcba9876543210"),),
        marks=(),
        points=tuple(map(point, steps, asr)),
        visage=66.7,
        visage_contiguous=60.0,
        visage_depth=50.0,
    )


FLAT = ((100.0, 75.0, 100.0, 100.0), (50.0, 0.0, 25.0, NAN), (100.0, 50.0, 75.0, 100.0))


def plane_landscape(rows=FLAT):
    """Rows from y = -0.5 to 0.5, and points in each from x = -0.5 to 1.5; two other models span it."""
    width = {len(row) for row in rows}.pop()
    x, y = evenly(-0.5, 1.5, width), evenly(-0.5, 0.5, len(rows))
    basin = Edges(-0.5, 0.7, 1.2, 66.7, 300.0, True, False)
    first = Axis("difference", 0.002, x, basin, to="models:/m-fedcba9876543210")
    second = Axis("difference", 0.002, y, basin, to="org/other", angle=71.2)
    points = tuple(point(x[j], asr, y[i]) for i, row in enumerate(rows) for j, asr in enumerate(row))
    marks = (Mark("models:/m-fedcba9876543210", 1.0, 0.0), Mark("org/other", 0.4, 0.45))
    return Landscape("2d-interpolation", setup("builtin:smollm2"), (first, second), marks, points, 66.7, NAN, 50.0)


def visage(asrs=((100.0, 25.0, 0.0, NAN, 75.0), (100.0, 100.0, 0.0, 100.0, 100.0))):
    means = tuple(sum(column) / len(column) for column in zip(*asrs, strict=True))
    return Visage(
        landscapes=tuple(landscape(asr, seed=seed) for seed, asr in enumerate(asrs)),
        mean_asr=means,
        mean_asr_low=tuple(max(mean - 15, 0.0) for mean in means),
        mean_asr_high=tuple(min(mean + 15, 100.0) for mean in means),
        visage=70.0,
        visage_low=50.0,
        visage_high=80.0,
        visage_contiguous=65.0,
        visage_depth=45.0,
        visage_depth_low=40.0,
        visage_depth_high=50.0,
    )


def place(step, x, asr, share=0.3, *, y=0.0, plane_asr=None):
    """With intervals of 10 each way; on the plane the ASR is 5 less, if nothing else is said."""
    on_plane = max(asr - 5, 0.0) if plane_asr is None else plane_asr
    return Place(
        uri=f"models:/m-{step}",
        training_step=step,
        x=x,
        y=y,
        distance=0.002,
        off_plane_distance=0.002 * share,
        off_plane_share=share,
        asr=asr,
        asr_low=max(asr - 10, 0.0),
        asr_high=min(asr + 10, 100.0),
        plane_asr=on_plane,
        plane_asr_low=max(on_plane - 10, 0.0),
        plane_asr_high=min(on_plane + 10, 100.0),
    )


def edge(step=0.6, is_open=False, **more):
    """With an interval of 0.08 each way; that of an open edge has no end."""
    return Edge(
        step,
        0.002 * step,
        is_open,
        ((0.5, 25.0), (0.7, 100.0)),
        low=step - 0.08,
        high=step if is_open else step + 0.08,
        high_is_open=is_open,
        **more,
    )


PLACES = ((4, 0.5, 25.0, 0.6), (8, 0.9, NAN, 0.2), (12, 1.0, 100.0, 0.0))


def trajectory(places=PLACES, asr=None, *, remark=""):
    """One course on a line; the ASR of one checkpoint is not known."""
    course = Course("30 harmful", tuple(place(*one) for one in places), edge())
    return Trajectory(line() if asr is None else line(asr), (course,), edge(0.2), remark)


def plane_trajectory(rows=FLAT, *, remark="Small markers lie off the plane."):
    """Three courses on a plane: with an edge, with an open one, and with none looked for."""
    courses = (
        Course("30 harmful", (place(4, 0.5, 25.0, 0.6, y=0.1), place(8, 1.0, 100.0, 0.0)), edge(0.29)),
        Course("60 safe", (place(4, 0.2, 0.0, 0.9, y=0.2), place(8, 0.4, NAN, 0.5, y=0.45)), edge(4.0, True)),
        Course("mixed", (place(8, 0.3, 50.0, 1.0, y=-0.2),), None),
    )
    return Trajectory(plane_landscape(rows), courses, edge(0.2), remark)


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


def trial(number=0, asr=5.0, over_refusal=10.0, utility=3.8, *, state="complete", inside=None, **more):
    """Inside if it is complete and its ASR is at most 10 and its over-refusal at most 20; intervals of 10 each way."""
    is_inside = state == "complete" and asr <= 10 and over_refusal <= 20
    settings = {
        "reason": "",
        "params": {"safe": 60, "learning_rate": 2e-4},
        "counts": {"harmful": 30, "safe": 60, "benign": 30, "task": 0},
        "margin": 0.5 if asr <= 10 else NAN,
        "margin_is_open": False,
        "violation": max(asr - 10, 0.0) + max(0.0, over_refusal - 20),
        "value": utility,
        "steps": 30,
        "planned_steps": 30,
        "seconds": 120.0,
        "uri": f"models:/m-{number:032x}",
        "run": f"{number:032x}",
    }
    return Trial(
        number=number,
        state=state,
        asr=asr,
        asr_low=max(asr - 10, 0.0),
        asr_high=min(asr + 10, 100.0),
        over_refusal=over_refusal,
        over_refusal_low=max(over_refusal - 10, 0.0),
        over_refusal_high=min(over_refusal + 10, 100.0),
        asr_upper=asr,
        over_refusal_upper=over_refusal,
        utility=utility,
        inside=is_inside if inside is None else inside,
        **{**settings, **more},
    )


TRIALS = (
    trial(0, 80.0, 0.0, 3.7),
    trial(1, 5.0, 30.0, 3.9),
    trial(2, 5.0, 10.0, 3.8),
    trial(3, 97.5, NAN, NAN, state="pruned", reason="ASR above 50 % at 2 checkpoints in a row", steps=10),
    trial(4, NAN, NAN, NAN, state="failed", reason="out of memory"),
)


def check(number=2, asr=(0.0, 2.5, 5.0), asr_upper=9.5, *, over_refusal_upper=18.0, **more):
    """Of three trainings; it holds if its upper ends keep 10 and 20."""
    holds = asr_upper <= 10 and over_refusal_upper <= 20
    rates = (asr, (5.0, 5.0, 5.0), (3.8, 3.9, 4.0))
    return Check(number, (1, 2, 3), *rates, asr_upper, over_refusal_upper, 0.975, holds, **more)


def search(trials=TRIALS, *, best=2, nearest=2, front=(0, 2), checks=None, **more):
    """Of five trials: inside is the third; the first attacks break, the second refuses too much. A best is checked."""
    settings = {
        "study": "mixtures",
        "model": "builtin:smollm2",
        "objective": "utility",
        "utility_name": "benign_nll",
        "max_asr": 10.0,
        "max_over_refusal": 20.0,
        "margin_min": None,
        "certainty": 0.95,
        "leading": best,
        "checks": (() if best is None else (check(best),)) if checks is None else checks,
        "space": {"safe": "0..120", "benign": "30", "learning_rate": "0.0001..0.001"},
    }
    return Search(trials=tuple(trials), best=best, nearest=nearest, front=front, **{**settings, **more})


def comparison(**more):
    """Of two models: a difference that was seen, one that was not, one that cannot be told, and one unmeasured."""
    differences = (
        Difference("asr", 10.0, 35.0, 25.0, 10.4, 39.9, 40, 1, 11, 26 / 4096),
        Difference("over_refusal", 12.5, 10.0, -2.5, -12.9, 7.1, 40, 2, 1, 1.0),
        Difference("visage", 70.0, 60.0, -10.0, NAN, NAN, 40),
        Difference("visage_depth", NAN, NAN, NAN, NAN, NAN, 0),
    )
    settings = {"differences": differences, "n_directions": 1, "same_directions": True, **more}
    return Comparison(first=setup(), second=setup("org/other"), **settings)


ALL = {
    "comparison": comparison(),
    "evaluation": evaluation(asr=NAN, nll=NAN),
    "landscape": landscape(),
    "visage": visage(),
    "trajectory": trajectory(),
    "finetuning": finetuning(),
    "benchmark": benchmark(),
    "search": search(),
}
"""One result of each kind, each with something that could not be measured."""


SPACE = {
    "safe": optuna.distributions.IntDistribution(0, 120),
    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-3, log=True),
    "lora_rank": optuna.distributions.IntDistribution(4, 32, log=True),
}


def study(utilities=(3.9, 3.7, 3.8, None, 3.85, 3.75, 3.95, 3.72), *, objectives=1, vary=tuple(SPACE), inside=True):
    """An Optuna study with a trial for each utility, pruned where that is None.

    Only the settings in `vary` are searched. With three objectives the ASR is ten times the number of the trial, the
    over-refusal is 5. All trials are inside, or none; None: no limits.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(directions=["minimize"] * objectives)
    optuna.logging.set_verbosity(level)
    for number, utility in enumerate(utilities):
        settings = {
            "safe": (37 * number) % 121,
            "learning_rate": 1e-4 * 10 ** ((3 * number % 8) / 8),
            "lora_rank": 4 + (5 * number) % 29,
        }
        about = {
            "params": {name: settings[name] for name in vary},
            "distributions": {name: SPACE[name] for name in vary},
        }
        if utility is None:
            ended = {"state": optuna.trial.TrialState.PRUNED}
        else:
            rates = [10.0 * number, 5.0, utility]
            limits = None if inside is None else {"asr": -1.0 if inside else 1.0}
            ended = {"values": rates[-objectives:], "constraints": limits}
        said = {"reason": "<img src=x onerror=1> $x$"}
        made.add_trial(optuna.trial.create_trial(user_attrs=said, **about, **ended))
    return made
