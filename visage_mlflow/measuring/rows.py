"""Rows as the tokens that a model reads, made once for all the points that ask them; and whether it can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from visage_mlflow.config import AttackConfig
from visage_mlflow.language.chat_format import Answered, ChatFormat
from visage_mlflow.language.thinking import parted
from visage_mlflow.text.errors import Mistake

Tokens = tuple[tuple[int, ...], ...]


class Asked(Protocol):
    """A prompt with an answer, which may be empty."""

    @property
    def prompt(self) -> str: ...

    @property
    def response(self) -> str: ...


@lru_cache(maxsize=16)
def prompts(form: ChatFormat, rows: tuple[Asked, ...]) -> Tokens:
    """Each prompt as the model reads it."""
    return tuple(tuple(form.prompt(row.prompt)) for row in rows)


@lru_cache(maxsize=16)
def answered(form: ChatFormat, rows: tuple[Asked, ...]) -> tuple[Answered, ...]:
    """Each prompt with its response."""
    return tuple(form.answered(row.prompt, row.response) for row in rows)


def room(form: ChatFormat, rows: Sequence[Asked], n_tokens: int) -> int:
    """How many tokens, `n_tokens` at most, the model can write after each of the prompts; may be 0."""
    if form.window is None:
        return n_tokens
    return max(0, min(n_tokens, form.window - max(map(len, prompts(form, tuple(rows))), default=0)))


def askable(form: ChatFormat, rows: Sequence[Asked], attack: AttackConfig) -> list[bool]:
    """For each prompt, whether the context window holds it and an answer of `max_new_tokens`.

    Raises:
        Mistake: It does not hold all, and `too_long` is refuse.
    """
    if form.window is None:
        return [True] * len(rows)
    lengths = [len(ids) for ids in prompts(form, tuple(rows))]
    fits = [length + attack.max_new_tokens <= form.window for length in lengths]
    if not all(fits) and attack.too_long == "refuse":
        left = form.window - max(lengths)
        shorter = f"`max_new_tokens={left}`, " if left > 0 else ""
        raise Mistake(
            f"`max_new_tokens` is {attack.max_new_tokens}, and {fits.count(False)} of {len(rows)} prompts leave no "
            f"room for it: the longest has {max(lengths)} tokens, of {form.window} that the model can read and write. "
            f"Try {shorter}`too_long=unjudged` to leave them out, or shorter prompts."
        )
    return fits


def readable(form: ChatFormat, rows: Sequence[Asked], attack: AttackConfig) -> list[bool]:
    """For each prompt with its answer, whether the context window holds it.

    Raises:
        Mistake: As `askable` and `check_finished`.
    """
    check_finished(rows)
    if form.window is None:
        return [True] * len(rows)
    lengths = [len(one.ids) for one in answered(form, tuple(rows))]
    fits = [length <= form.window for length in lengths]
    if not all(fits) and attack.too_long == "refuse":
        raise Mistake(
            f"{fits.count(False)} of {len(rows)} prompts and their answers have more than {form.window} tokens, the "
            f"most that the model can read: the longest has {max(lengths)}. Try `too_long=unjudged` to leave them "
            "out, or shorter rows."
        )
    return fits


def check_finished(rows: Sequence[Asked]) -> None:
    """Raise Mistake where a row's answer is a thinking that does not end: it would teach, or count, to end in it."""
    unfinished = sum(parted(row.response)[1] is None for row in rows)
    if unfinished:
        raise Mistake(
            f"{unfinished} of {len(rows)} rows have only a thinking that does not end, and no answer after it. Leave "
            "them out, or give their answers."
        )


def special(form: ChatFormat, rows: Sequence[Asked]) -> str:
    """How many rows hold special tokens, and what these are to the model; empty where none does."""
    holding = sum(form.holds_special_tokens(row.prompt, row.response) for row in rows)
    held_by_all = form.holds_special_tokens(form.system_prompt or "", *map(str, form.arguments.values()))
    if not holding and not held_by_all:
        return ""
    meant = "the tokens themselves" if form.special_tokens == "as_given" else "plain text"
    other = "plain" if form.special_tokens == "as_given" else "as_given"
    around = ", and what stands around all," if held_by_all else ""
    return (
        f"{holding} of {len(rows)} rows{around} hold special tokens of the model, which reads them as {meant} "
        f"(`special_tokens={form.special_tokens}`; the other way: {other})."
    )
