"""What a machine and a process can do: matrix rate, operations of a run, time to perturb, peak memory."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from visage_mlflow.config import LandscapeConfig
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.models import Chat


@torch.inference_mode()
def matrix_rate(model: Any, n_rows: int) -> float:
    """How fast this machine multiplies `n_rows` rows by all weight matrices of a model, in GFLOP/s."""
    layers = _linear_layers(model)
    rows = {layer.in_features: torch.randn(n_rows, layer.in_features).to(model.dtype) for layer in layers}

    def multiply() -> None:
        for layer in layers:
            layer(rows[layer.in_features])

    return gflop(model, multiply) / seconds(multiply)


def gflop(model: Any, run: Callable[[], object]) -> float:
    """GFLOP that a model's linear layers compute in one run: 2 FLOP for each weight and token, without attention."""
    done = [0.0]

    def count(layer: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
        done[0] += 2 * layer.weight.numel() * args[0].numel() / layer.in_features

    handles = [layer.register_forward_hook(count) for layer in _linear_layers(model)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return done[0] / 1e9


def _linear_layers(model: Any) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def perturbing(chat: Chat, direction: Direction, step: float) -> float:
    """Seconds to move a model to a point and back."""

    def there_and_back() -> None:
        with perturbed(chat.model, [direction], [step], weights=chat.weights):
            pass

    return seconds(there_and_back)


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median of the seconds that several runs take."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return median(times)


def peak_memory_ratio(config: LandscapeConfig) -> float:
    """Peak memory of a landscape of three points in a process of its own, over that of the model's float32 weights.

    What the libraries took before the model was loaded is left out.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_memory_ratio, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        return float(ours.recv())
    except EOFError as error:
        raise RuntimeError("The process that measures peak memory ended early: its error stands above.") from error
    finally:
        process.kill()  # After an interrupt it would go on with its work.
        process.join()


def _send_memory_ratio(config: LandscapeConfig, answer: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which kills this process.
    import psutil
    import transformers

    from visage_mlflow.language import models
    from visage_mlflow.studies import landscape

    transformers.utils.logging.disable_progress_bar()
    _ = transformers.LlamaForCausalLM, transformers.AutoModelForCausalLM  # Imported only when named.
    before = psutil.Process().memory_info().rss
    chat = models.load(config.model, dtype=config.dtype)
    landscape.measure(chat, replace(config, n_points=3))
    answer.send((peak_memory() - before) / sum(weight.nbytes for weight in chat.weights.values()))


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not `getrusage`, which on Linux begins at the peak of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
