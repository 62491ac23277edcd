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
from torch import nn

from visage_mlflow.config import LandscapeConfig
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.models import Chat


def flop_per_token(model: Any) -> float:
    """Floating-point operations of all linear layers for one token: two for each of their weights."""
    return 2.0 * sum(layer.weight.numel() for layer in _linear_layers(model))


@torch.inference_mode()
def matrix_rate(model: Any, n_rows: int) -> float:
    """How fast this machine multiplies `n_rows` rows by all weight matrices of a model, in GFLOP/s."""
    layers = _linear_layers(model)
    rows = {layer.in_features: torch.randn(n_rows, layer.in_features).to(model.dtype) for layer in layers}
    taken = seconds(lambda: [layer(rows[layer.in_features]) for layer in layers])
    return flop_per_token(model) * n_rows / taken / 1e9


def _linear_layers(model: Any) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def gflop(model: Any, run: Callable[[], object]) -> float:
    """GFLOP that the linear layers of `model` compute in one run; attention is not counted."""
    head = 2.0 * model.get_output_embeddings().weight.numel()
    body = flop_per_token(model) - head
    done = [0.0]

    def count(module: Any, args: tuple[Any, ...], output: Any) -> None:
        n_rows, n_tokens = args[0].shape
        done[0] += n_rows * (n_tokens * body + head)  # Logits are computed for each row's last token only.

    handle = model.register_forward_hook(count)
    try:
        run()
    finally:
        handle.remove()
    return done[0] / 1e9


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
