"""The one door to model and store: a model held somewhere in weight space is asked there, once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress
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
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.judges import JUDGES, Verdict, never
from visage_mlflow.language.likelihood import answer_nll, token_nll
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.prompts import read as read_rows
from visage_mlflow.language.thinking import without_thinking
from visage_mlflow.measuring.coherence import LOOKED_AT, READ, Look, Scale, final_verdict, fresh_nll, scale_of
from visage_mlflow.measuring.key import identity, model_identity
from visage_mlflow.measuring.rows import Tokens, answered, askable, prompts, room
from visage_mlflow.measuring.store import open_store
from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.results import Response
from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.printing import tell

Said = tuple[str, str | None]
"""What a model thought, and what it answered then; None where no answer came."""

NOTHING: Said = ("", None)

SHORTEST = 16
"""Tokens of an answer that tell what is language to a model."""
N_ORDINARY = 16
"""Built-in ordinary prompts by whose answers a model tells what is language to it."""

SCALES: WeakKeyDictionary[Any, dict[Any, Scale]] = WeakKeyDictionary()
"""Model -> its scales, by dtype and form of the chats."""

TOLD: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()
"""Model -> the limits of tokens of which it was told that thinking does not end within them."""

ENOUGH = 16
"""Times a limit within which thinking has usually ended that did not end within the limit."""

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


def askable_ordinary(form: ChatFormat) -> tuple[Row, ...]:
    """Ordinary prompts that leave room for an answer.

    Raises:
        Mistake: None does.
    """
    if form.window is None:
        return ordinary()
    needed = [len(ids) + SHORTEST for ids in prompts(form, ordinary())]
    if form.window < min(needed):
        raise Mistake(
            f"`model` has a context window of {form.window} tokens, which leaves no room to answer ordinary prompts, "
            f"by which noise is told from language: that takes {min(needed)}. Give a model with a longer one."
        )
    return tuple(row for row, tokens in zip(ordinary(), needed, strict=True) if tokens <= form.window)


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
        fits = askable(chat.format, rows, attack)
        found = iter(self._texts("responses", chat, held, list(compress(rows, fits)), attack.max_new_tokens, attack))
        texts = [next(found) if one_fits else None for one_fits in fits]
        said = _parted(chat, texts)
        _tell_unfinished(chat, list(compress(rows, fits)), list(compress(texts, fits)), attack)
        verdicts: list[Verdict] = [
            "unjudged" if answer is None else judge.verdict(row.prompt, answer)
            for row, (_, answer) in zip(rows, said, strict=True)
        ]
        looks: list[Look | None] = [None] * len(rows)
        if not judge.judges_coherence:
            looks = self._looks(chat, rows, said, [each in ("complied", "opening_only") for each in verdicts])
        return [
            Response(row.prompt, text, final_verdict(judge, verdict, look), row.category)
            for row, text, verdict, look in zip(rows, texts, verdicts, looks, strict=True)
        ]

    def answers(self, chat: Chat, rows: Sequence[Row], n_tokens: int) -> list[str]:
        """The model's own answers to prompts, each to its end or `n_tokens`; empty where it gave none, or noise.

        Where the context window holds fewer tokens, they are shorter.
        """
        said = _parted(chat, self._texts("responses", chat, AT_REST, rows, n_tokens))
        return [
            answer if answer and look == "language" else ""
            for (_, answer), look in zip(said, self._looks(chat, rows, said, [True] * len(rows)), strict=True)
        ]

    def scale(self, chat: Chat) -> Scale:
        """What is language to a model: its own answers to some ordinary prompts."""
        known = SCALES.setdefault(chat.model, {})
        where = (chat.model.dtype, chat.format)
        if where not in known:
            asked = askable_ordinary(chat.format)
            said = _parted(chat, self._texts("scale", chat, AT_REST, asked, LOOKED_AT))
            thoughts, own = _tokens(chat, said)
            # Thinking is language, too, where a model comes no further.
            answers = tuple(tokens or thought for thought, tokens in zip(thoughts, own, strict=True))
            before = tuple(thought if tokens else () for thought, tokens in zip(thoughts, own, strict=True))
            vocabulary = chat.model.get_output_embeddings().weight.shape[0]
            known[where] = scale_of(answers, self._likelihoods(chat, asked, before, answers), vocabulary)
        return known[where]

    def nll(self, chat: Chat, held: Held, rows: Sequence[Row]) -> float:
        """Mean negative log-likelihood of the rows' responses, in nats per token; NaN where it is not finite."""
        if not rows:
            return math.nan
        chats = answered(chat.format, tuple(rows))
        given, whole = [one.ids[: one.n_given] for one in chats], [one.ids for one in chats]

        def read() -> list[float | None]:
            nll = answer_nll(chat.model, given, whole, batch_size=self.compute.batch_size)
            return [nll if math.isfinite(nll) else None]

        # The answers as tokens, too: what the chat template makes of an answer does not show in the prompt.
        asked = {**self._asked(rows, given, 0), "answers": whole}
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
        n_tokens = room(chat.format, rows, n_tokens)
        if not rows or n_tokens == 0:
            return [None] * len(rows)
        read = prompts(chat.format, tuple(rows))
        asked = self._asked(rows, read, n_tokens)
        opened = chat.format.turn.opened
        is_final: Callable[[str], bool] = never
        if attack and attack.stop_at_verdict and (judge := JUDGES[attack.judge]).is_final is not never:
            asked["until"] = [attack.judge, judge.version]

            def is_final(text: str) -> bool:
                _, answer = chat.format.parted(opened + text)
                return answer is not None and judge.is_final(answer)

        def ask() -> list[str | None]:
            return respond(
                chat.model,
                chat.tokenizer,
                read,
                max_new_tokens=n_tokens,
                batch_size=self.compute.batch_size,
                is_final=is_final,
                check=self.check,
                lean=self.compute.lean,
            )

        found: list[str | None] = self._point(kind, chat, held, asked, ask)
        return [text if text is None else opened + text for text in found]

    def _looks(
        self, chat: Chat, rows: Sequence[Row], said: Sequence[Said], asked: Sequence[bool]
    ) -> list[Look | None]:
        """What each answer is to the model unperturbed; where that is not asked, only whether it is a loop."""
        scale, (before, answers) = self.scale(chat), _tokens(chat, said)
        read = [own if wanted and not scale.is_loop(own) else () for own, wanted in zip(answers, asked, strict=True)]
        likelihoods = self._likelihoods(chat, rows, before, read)
        return [scale.look(own, nll) for own, nll in zip(answers, likelihoods, strict=True)]

    def _likelihoods(
        self, chat: Chat, rows: Sequence[Row], before: Tokens, answers: Sequence[Sequence[int]]
    ) -> list[float]:
        """How likely the model unperturbed finds the first tokens of answers: `fresh_nll`; NaN of empty ones.

        Args:
            chat: The model.
            rows: The prompts.
            before: What was thought between each prompt and its answer, as tokens.
            answers: The answers' tokens.
        """
        own = [tokens[:READ] for tokens in answers]
        given = [
            (*prompt, *thought) for prompt, thought in zip(prompts(chat.format, tuple(rows)), before, strict=True)
        ]
        if (window := chat.format.window) is not None:
            own = [tokens[: max(0, window - len(ids))] for tokens, ids in zip(own, given, strict=True)]
        read = [number for number, tokens in enumerate(own) if tokens]
        given, own = [given[number] for number in read], [own[number] for number in read]
        whole = [(*ids, *tokens) for ids, tokens in zip(given, own, strict=True)]

        def look() -> list[float | None]:
            self.check()
            each = token_nll(chat.model, given, whole, batch_size=self.compute.batch_size)
            found = [fresh_nll(tokens, values) for tokens, values in zip(own, each, strict=True)]
            return [None if math.isnan(nll) else nll for nll in found]

        likelihoods = [math.nan] * len(answers)
        if read:
            asked = {
                "given": [len(ids) for ids in given],
                "answered": whole,
                "batch_size": min(self.compute.batch_size, len(read)),
            }
            for number, nll in zip(read, self._point("readings", chat, AT_REST, asked, look), strict=True):
                likelihoods[number] = math.nan if nll is None else nll
        return likelihoods

    def _asked(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]], n_tokens: int) -> dict[str, Any]:
        """What is asked of a model: the tokens that it reads hold the system prompt and the chat template."""
        return {
            "prompts": [row.prompt for row in rows],
            "tokens": tokens,
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


def _parted(chat: Chat, texts: Sequence[str | None]) -> list[Said]:
    """What texts hold of thinking and of answer."""
    return [NOTHING if text is None else chat.format.parted(text) for text in texts]


def _tell_unfinished(chat: Chat, rows: Sequence[Row], texts: Sequence[str | None], attack: AttackConfig) -> None:
    """Say, once a model and limit, how many answers were still thinking at it, and what to try."""
    limit, limits = attack.max_new_tokens, TOLD.setdefault(chat.model, set())
    thinking = [text for text in texts if text is not None and without_thinking(text) is None]
    if not thinking or limit in limits:
        return
    limits.add(limit)
    more = room(chat.format, rows, ENOUGH * limit)
    is_on = chat.format.arguments.get("enable_thinking") is not False
    cures = ["`template={enable_thinking: false}`"] if "enable_thinking" in chat.format.takes and is_on else []
    # A token fewer or more: what was written need not be how the text is encoded again.
    if all(len(chat.format.said(text, "")[0]) < limit - 1 for text in thinking):
        done, otherwise = "ended within their thinking, without an answer,", "a model that ends its thinking"
    else:
        done, otherwise = f"were still thinking after {limit} tokens,", "a model with a longer context window"
        cures = [f"`max_new_tokens={more}`", *cures] if more > limit else cures
    tell(
        f"warning: {len(thinking)} of {len(rows)} answers {done} and are unjudged. Try "
        f"{' or '.join(cures) or otherwise}.",
        sys.stderr,
    )


def _tokens(chat: Chat, said: Sequence[Said]) -> tuple[Tokens, Tokens]:
    """What was thought before each answer, and the answers, as tokens; no tokens for what did not come."""
    both = [chat.format.said(thinking, answer or "") for thinking, answer in said]
    return tuple(tuple(thought) for thought, _ in both), tuple(tuple(answer) for _, answer in both)
