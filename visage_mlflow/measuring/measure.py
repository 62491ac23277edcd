"""The one door to model and store: a model held somewhere in weight space is asked there, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from visage_mlflow.config import AttackConfig, ComputeConfig
from visage_mlflow.decoding.respond import respond
from visage_mlflow.geometry import rounding
from visage_mlflow.geometry.axes import Steps
from visage_mlflow.geometry.directions import Direction, gram
from visage_mlflow.geometry.identity import definition, digest, displaced
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.judges import JUDGES, Verdict, never
from visage_mlflow.language.likelihood import answer_nll, token_nll
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.prompts import read as read_rows
from visage_mlflow.language.tokens import encode, encode_answered, messages
from visage_mlflow.measuring.coherence import LOOKED_AT, READ, Look, Scale, final_verdict, fresh_nll, scale_of
from visage_mlflow.measuring.key import identity, model_identity
from visage_mlflow.measuring.store import open_store
from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.results import Response

Tokens = tuple[tuple[int, ...], ...]

N_ORDINARY = 16
"""Built-in ordinary prompts by whose answers a model tells what is language to it."""

SCALES: WeakKeyDictionary[Any, dict[Any, Scale]] = WeakKeyDictionary()
"""Model -> its scales, by dtype and system prompt."""


ASIDE = ("scale", "readings")
"""Kinds of points by which answers are told from noise. They go with the answers, and are not counted."""


@dataclass(frozen=True)
class Held:
    """Where a model is held: at its weights + sum(step * direction)."""

    directions: Sequence[Direction] = ()
    steps: tuple[float, ...] = ()

    @contextmanager
    def by(self, chat: Chat) -> Iterator[None]:
        """Inside, the model is held there; ValueError if it does not hold its own weights before."""
        with perturbed(chat.model, self.directions, self.steps, weights=chat.weights):
            yield


AT_REST = Held()


@cache
def ordinary() -> tuple[Row, ...]:
    """Ordinary prompts."""
    return tuple(read_rows("builtin:benign_eval", setting="benign_prompts")[:N_ORDINARY])


def nothing() -> None:
    """A `check` that never raises."""


@dataclass(frozen=True)
class Measurer:
    """Asks models, and judges what they answer; a point that the store has is read instead of computed.

    Attributes:
        compute: What measuring may cost, and where points are kept.
        check: Called every few tokens; raises to give up.
    """

    compute: ComputeConfig
    check: Callable[[], None] = nothing

    def __post_init__(self) -> None:
        open_store(self.compute.store)  # Raises Mistake for one that cannot be, before anything is computed for it.

    def __call__(self, chat: Chat, held: Held, rows: Sequence[Row], attack: AttackConfig) -> list[Response]:
        """The judged responses of a model that is held somewhere.

        What is kept are whole answers, and what they look like to the unperturbed model; verdicts are made of these
        each time. So another judge asks no model. With `stop_at_verdict` answers end where the judge is sure, and
        are kept under keys that hold the judge.

        Args:
            chat: The model, unperturbed; it is left so.
            held: Where it is held.
            rows: The prompts.
            attack: How long a response may be, and who judges it.
        """
        judge = JUDGES[attack.judge]
        texts = self._texts("responses", chat, held, rows, attack.max_new_tokens, attack)
        said: list[Verdict] = [
            "unjudged" if text is None else judge.verdict(row.prompt, text)
            for row, text in zip(rows, texts, strict=True)
        ]
        looks: list[Look | None] = [None] * len(rows)
        if not judge.judges_coherence:
            looks = self._looks(chat, rows, texts, [each in ("complied", "opening_only") for each in said])
        return [
            Response(row.prompt, text, final_verdict(judge, verdict, look), row.category)
            for row, text, verdict, look in zip(rows, texts, said, looks, strict=True)
        ]

    def answers(self, chat: Chat, rows: Sequence[Row], n_tokens: int) -> list[str]:
        """The model's own answers to prompts, each to its end or `n_tokens`; empty where it gave none, or noise."""
        texts = self._texts("responses", chat, AT_REST, rows, n_tokens)
        return [
            text if text and look == "language" else ""
            for text, look in zip(texts, self._looks(chat, rows, texts, [True] * len(rows)), strict=True)
        ]

    def scale(self, chat: Chat) -> Scale:
        """What is language to a model: its own answers to some ordinary prompts."""
        known = SCALES.setdefault(chat.model, {})
        where = (chat.model.dtype, chat.system_prompt)
        if where not in known:
            answers = _tokens(chat, self._texts("scale", chat, AT_REST, ordinary(), LOOKED_AT))
            vocabulary = chat.model.get_output_embeddings().weight.shape[0]
            known[where] = scale_of(answers, self._likelihoods(chat, ordinary(), answers), vocabulary)
        return known[where]

    def nll(self, chat: Chat, held: Held, rows: Sequence[Row]) -> float:
        """Mean negative log-likelihood of the rows' responses, in nats per token; NaN where it is not finite."""
        prompts, answered = _prompts(chat, rows), _answered(chat, rows)

        def read() -> list[float | None]:
            nll = answer_nll(chat.model, prompts, answered, batch_size=self.compute.batch_size)
            return [nll if math.isfinite(nll) else None]

        # The answers as tokens, too: what the chat template makes of an answer does not show in the prompt.
        asked = {**self._asked(rows, prompts, 0), "answers": answered}
        (found,) = self._point("likelihood", chat, held, asked, read)
        return math.nan if found is None else float(found)

    def products(self, chat: Chat, directions: Sequence[Direction]) -> NDArray[np.float64]:
        """Inner products of directions over all weights together, of shape (directions, directions).

        Keeping them spares a plane that was measured before the drawing of its noise.
        """
        found = self._of_directions("products", chat, directions, {}, lambda: gram(chat.weights, directions).tolist())
        return np.array(found)

    def realised(
        self, chat: Chat, directions: Sequence[Direction], steps: Sequence[Steps], dtype: torch.dtype
    ) -> list[float]:
        """The share of each displacement that is left in `dtype`: see `geometry.rounding.realised`."""
        asked = {"steps": [list(each) for each in steps], "dtype": str(dtype)}

        def find() -> list[float | None]:
            shares = rounding.realised(chat.weights, directions, steps, dtype)
            return [None if math.isnan(share) else share for share in shares]

        found = self._of_directions("realised", chat, directions, asked, find)
        return [math.nan if share is None else share for share in found]

    def _of_directions(
        self, kind: str, chat: Chat, directions: Sequence[Direction], asked: dict[str, Any], find: Callable[[], Any]
    ) -> Any:
        """What follows from weights and directions alone: read, or found and kept."""
        decisive = None
        if open_store(self.compute.store):  # Without one, no digest of all weights is needed.
            defined = [definition(direction, chat.weights) for direction in directions]
            if None not in defined:
                decisive = {"weights": digest(chat.weights), "directions": defined, **asked}
        key, found = self._look_up(kind, decisive)
        if found is None or not self.compute.reuse:
            found = find()
            self._keep(key, found, kind, chat)
        return found

    def checked(self, check: Callable[[], None]) -> Measurer:
        """The same, which can be made to give up."""
        return replace(self, check=check)

    def _texts(
        self,
        kind: str,
        chat: Chat,
        held: Held,
        rows: Sequence[Row],
        n_tokens: int,
        attack: AttackConfig | None = None,
    ) -> list[str | None]:
        """What a model says where it is held: whole answers, or with `stop_at_verdict` as far as its judge needs them.

        None stands where no token could be chosen.
        """
        prompts = _prompts(chat, rows)
        asked = self._asked(rows, prompts, n_tokens)
        is_final: Callable[[str], bool] = never
        if attack and attack.stop_at_verdict and (judge := JUDGES[attack.judge]).is_final is not never:
            is_final = judge.is_final
            asked["until"] = [attack.judge, judge.version]

        def ask() -> list[str | None]:
            return respond(
                chat.model,
                chat.tokenizer,
                prompts,
                max_new_tokens=n_tokens,
                batch_size=self.compute.batch_size,
                is_final=is_final,
                check=self.check,
                lean=self.compute.lean,
            )

        found: list[str | None] = self._point(kind, chat, held, asked, ask)
        return found

    def _looks(
        self, chat: Chat, rows: Sequence[Row], texts: Sequence[str | None], asked: Sequence[bool]
    ) -> list[Look | None]:
        """What each answer is to the model unperturbed; where that is not asked, only whether it is a loop."""
        scale, answers = self.scale(chat), _tokens(chat, texts)
        read = [own if wanted and not scale.is_loop(own) else () for own, wanted in zip(answers, asked, strict=True)]
        return [scale.look(own, nll) for own, nll in zip(answers, self._likelihoods(chat, rows, read), strict=True)]

    def _likelihoods(self, chat: Chat, rows: Sequence[Row], answers: Sequence[Sequence[int]]) -> list[float]:
        """How likely the model unperturbed finds the first tokens of answers: `fresh_nll`; NaN of empty ones."""
        read = [number for number, tokens in enumerate(answers) if tokens]
        prompts = [_prompts(chat, rows)[number] for number in read]
        own = [answers[number][:READ] for number in read]
        answered = [(*prompt, *tokens) for prompt, tokens in zip(prompts, own, strict=True)]

        def look() -> list[float | None]:
            self.check()
            each = token_nll(chat.model, prompts, answered, batch_size=self.compute.batch_size)
            found = [fresh_nll(tokens, values) for tokens, values in zip(own, each, strict=True)]
            return [None if math.isnan(nll) else nll for nll in found]

        likelihoods = [math.nan] * len(answers)
        if read:
            asked = {"answered": answered, "batch_size": min(self.compute.batch_size, len(read))}
            for number, nll in zip(read, self._point("readings", chat, AT_REST, asked, look), strict=True):
                likelihoods[number] = math.nan if nll is None else nll
        return likelihoods

    def _asked(self, rows: Sequence[Row], prompts: Tokens, n_tokens: int) -> dict[str, Any]:
        """What is asked of a model: the tokens that it reads hold the system prompt and the chat template."""
        return {
            "prompts": [row.prompt for row in rows],
            "tokens": prompts,
            "max_new_tokens": n_tokens,
            # It should not change an answer, but in bfloat16 it can change a last bit, and with that a word.
            "batch_size": min(self.compute.batch_size, len(rows)),
        }

    def _point(self, kind: str, chat: Chat, held: Held, asked: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """What is measured on a model that is held somewhere: read, or computed there and kept."""
        counts = int(kind not in ASIDE)
        where = displaced(chat.weights, held.directions, held.steps) if open_store(self.compute.store) else None
        key, kept = self._look_up(kind, None if where is None else {**where, **model_identity(chat), **asked})
        if kept is not None and self.compute.reuse:
            TALLY.add(read=counts)
            return kept
        with held.by(chat):
            found = compute()
        self._keep(key, found, kind, chat)
        TALLY.add(computed=counts, differing=counts * int(kept not in (None, found)))
        return found

    def _look_up(self, kind: str, decisive: dict[str, Any] | None) -> tuple[str, Any]:
        """The key of what all this decides, and what the store has under it; "" and None where it cannot be kept."""
        store = open_store(self.compute.store)
        if store is None or decisive is None:
            return "", None
        with TALLY.timed():
            key = identity({"kind": kind, **decisive})
            return key, store.get(key)

    def _keep(self, key: str, found: Any, kind: str, chat: Chat) -> None:
        """Keep what was computed, if it has a key."""
        if key and (store := open_store(self.compute.store)):
            with TALLY.timed():
                store.put(key, found, kind=kind, model=chat.uri)


def _tokens(chat: Chat, texts: Sequence[str | None]) -> Tokens:
    """Answers as tokens, without those of the chat template."""
    return tuple(tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else () for text in texts)


def _prompts(chat: Chat, rows: Sequence[Row]) -> Tokens:
    """Each prompt as the model reads it."""
    return _tokenized(chat.tokenizer, chat.tokenizer.chat_template, chat.system_prompt, tuple(rows), False)


def _answered(chat: Chat, rows: Sequence[Row]) -> Tokens:
    """Each prompt with its response."""
    return _tokenized(chat.tokenizer, chat.tokenizer.chat_template, chat.system_prompt, tuple(rows), True)


@lru_cache(maxsize=16)
def _tokenized(
    tokenizer: Any, template: str, system_prompt: str | None, rows: tuple[Row, ...], with_response: bool
) -> Tokens:
    """Rows as tokens, made once for all the points that ask them; `template` is the tokenizer's."""
    chats = [messages(row.prompt, system_prompt) for row in rows]
    if with_response:
        return tuple(
            tuple(encode_answered(tokenizer, chat, row.response)) for chat, row in zip(chats, rows, strict=True)
        )
    return tuple(tuple(encode(tokenizer, chat)) for chat in chats)
