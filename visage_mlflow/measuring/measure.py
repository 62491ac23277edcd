"""Models held somewhere in weight space and measured there once: what the store has is read, the rest computed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from visage_mlflow.config import AttackConfig
from visage_mlflow.geometry.directions import Direction, gram
from visage_mlflow.geometry.identity import definition, digest, displaced
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.tokens import encode, encode_answered, end_tokens
from visage_mlflow.measuring.store import open_store
from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.results import Response

NUMERIC_VERSION = 1
"""Of everything here that decides a number. Whoever changes what a measurement gives, raises it."""

PASSING = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""What a model's configuration says besides what it computes; training writes some of it. Ends are told apart."""


@dataclass(frozen=True)
class Held:
    """Where a model is held: at its weights + sum(step * direction)."""

    directions: Sequence[Direction] = ()
    steps: tuple[float, ...] = ()

    @contextmanager
    def by(self, chat: Chat) -> Iterator[None]:
        """Inside, the model is held there."""
        with perturbed(chat.model, self.directions, self.steps, weights=chat.weights):
            yield


AT_REST = Held()


def responses(
    chat: Chat,
    held: Held,
    rows: Sequence[Row],
    config: AttackConfig,
    at: Sequence[float],
    compute: Callable[[], list[Response]],
) -> list[Response]:
    """The judged responses of a model held somewhere.

    Args:
        chat: The model, unperturbed; it is left so.
        held: Where it is held.
        rows: The prompts.
        config: How to ask and judge, and where points are kept.
        at: Place on a line or plane, noted on each response.
        compute: Asks the model, which is held there by then.
    """

    def pairs() -> list[list[str | None]]:
        return [[response.text, response.verdict] for response in compute()]

    asked = {
        **_asked(chat, rows, config, config.max_new_tokens),
        "judge": [config.judge, JUDGES[config.judge].version],
    }
    found = _point("responses", chat, held, asked, config, pairs)
    x, y = (*at, 0.0, 0.0)[:2]
    return [
        Response(row.prompt, text, verdict, row.category, x, y)
        for row, (text, verdict) in zip(rows, found, strict=True)
    ]


def answers(
    chat: Chat, rows: Sequence[Row], n_tokens: int, config: AttackConfig, compute: Callable[[], list[str]]
) -> list[str]:
    """The model's own answers to prompts, each to its end or `n_tokens`."""
    found: list[str] = _point("answers", chat, AT_REST, _asked(chat, rows, config, n_tokens), config, compute)
    return found


def likelihood(
    chat: Chat, held: Held, rows: Sequence[Row], config: AttackConfig, compute: Callable[[], float]
) -> float:
    """A likelihood of the rows' responses, in nats per token; NaN where it is not finite."""

    def number() -> list[float | None]:
        nll = compute()
        return [nll if math.isfinite(nll) else None]

    # As tokens, too: what the chat template makes of an answer does not show in the prompt.
    answers = [encode_answered(chat.tokenizer, chat.messages(row.prompt), row.response) for row in rows]
    asked = {**_asked(chat, rows, config, 0), "answers": answers}
    (found,) = _point("likelihood", chat, held, asked, config, number)
    return math.nan if found is None else float(found)


def products(chat: Chat, spanning: Sequence[Direction], config: AttackConfig) -> NDArray[np.float64]:
    """Inner products of directions over all weights together; see `directions.gram`.

    What is kept of them spares a plane that is measured already the drawing of its noise.
    """

    def compute() -> list[list[float]]:
        found: list[list[float]] = gram(chat.weights, spanning).tolist()
        return found

    decisive = None
    if open_store(config.store):  # Without one, nobody needs to read all weights for their digest.
        defined = [definition(direction, chat.weights) for direction in spanning]
        decisive = {"weights": digest(chat.weights), "directions": defined} if None not in defined else None
    return np.array(_kept("products", decisive, chat, config, compute))


def _point(
    kind: str, chat: Chat, held: Held, asked: dict[str, Any], config: AttackConfig, compute: Callable[[], Any]
) -> Any:
    """What the store has of a measurement on a model held somewhere, or what is computed for it and kept."""
    where = displaced(chat.weights, held.directions, held.steps) if open_store(config.store) else None
    decisive = None if where is None else {**where, **model_identity(chat), **asked}

    def measure() -> Any:
        # What is kept must be of the weights that it is kept under, which `by` sees to, also for a model at rest.
        with held.by(chat) if held.directions or decisive else nullcontext():
            return compute()

    return _kept(kind, decisive, chat, config, measure)


def _kept(
    kind: str, decisive: dict[str, Any] | None, chat: Chat, config: AttackConfig, compute: Callable[[], Any]
) -> Any:
    """What the store has under all that decides it, or what is computed and kept; without a key, computed."""
    began = time.perf_counter()
    store = open_store(config.store)
    key = "" if decisive is None else identity({"kind": kind, **decisive})
    kept = store.get(key) if store and key else None
    is_point = kind != "products"
    if kept is not None and config.reuse:
        TALLY.add(read=int(is_point), seconds=time.perf_counter() - began)
        return kept
    computing = time.perf_counter()
    found = compute()
    computed = time.perf_counter()
    if store and key:
        store.put(key, found, kind=kind, model=chat.uri)
    seconds = time.perf_counter() - computed + computing - began
    differs = is_point and kept is not None and kept != found
    TALLY.add(computed=int(is_point), differing=int(differs), seconds=seconds)
    return found


def identity(decisive: Any) -> str:
    """SHA-256, in hexadecimal, of all that decides a number, as plain JSON, and of what computes it."""
    versions = {"numeric": NUMERIC_VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    # Which instructions the processor has decides which kernels run, and these differ in last bits of bfloat16: one of
    # 80 verdicts on SmolLM2 came out otherwise on another make.
    processor = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    text = json.dumps({"versions": versions, "processor": processor, **decisive}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def model_identity(chat: Chat) -> dict[str, Any]:
    """What decides a model's numbers besides its weights: configuration, tokenizer, and what it computes in."""
    settings = {name: value for name, value in chat.model.config.to_dict().items() if name not in PASSING}
    return {
        "configuration": json.dumps(settings, sort_keys=True, default=str),
        "attention": str(chat.model.config._attn_implementation),
        "tokenizer": _tokenizer_identity(chat.tokenizer),
        "ends": end_tokens(chat.model, chat.tokenizer),
        "dtype": str(chat.model.dtype),
        "device": chat.model.device.type,
    }


@cache
def _tokenizer_identity(tokenizer: Any) -> str:
    """Of what turns tokens into text; what the model reads is told by the tokens themselves."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    content = {name: part for name, part in content.items() if name not in ("padding", "truncation")}  # Of last use.
    described = [type(tokenizer).__name__, tokenizer.all_special_ids, content]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _asked(chat: Chat, rows: Sequence[Row], config: AttackConfig, n_tokens: int) -> dict[str, Any]:
    """What is asked of a model, and how: the tokens that it reads hold the system prompt and the chat template."""
    return {
        "prompts": [row.prompt for row in rows],
        "tokens": [encode(chat.tokenizer, chat.messages(row.prompt)) for row in rows],
        "max_new_tokens": n_tokens,
        # Neither should change an answer, but in bfloat16 a last bit can, and with it a word.
        "batch_size": min(config.batch_size, len(rows)),
        "lean": config.lean,
    }
