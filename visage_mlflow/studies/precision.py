"""What a study computes in, so that every point is where its axis says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from visage_mlflow.geometry.axes import Steps
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.geometry.rounding import is_taken, realised_at_random
from visage_mlflow.language.models import Chat, computing_in, dtype_name
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.text.printing import tell

FINETUNING = 1e-3
"""About how far finetuning moves weights, as a share of their norm; the first checkpoints are nearer still."""


@dataclass(frozen=True)
class Moves:
    """Displacements of a model: for each, one step along each of some directions."""

    directions: Sequence[Direction]
    steps: Sequence[Steps]


@contextmanager
def taking(chats: Sequence[Chat], setting: str, moves: Sequence[Moves], measure: Measurer) -> Iterator[list[float]]:
    """Inside, a model and its copies compute in a dtype in which these moves are taken, if the settings allow it.

    Args:
        chats: The model and its copies, unperturbed.
        setting: That of `dtype`. With "auto", a dtype that rounds a part of a move away is replaced by float32; with
            another, there is a warning.
        moves: Where the model will be held.
        measure: Keeps what was found.

    Yields:
        Of each, the realised share that is farthest from 1.
    """
    chat = chats[0]

    def realised() -> list[float]:
        return [_farthest(measure.realised(chat, each.directions, each.steps, chat.model.dtype)) for each in moves]

    shares = realised()
    with ExitStack() as stack:
        if not is_taken(worst := _farthest(shares)) and may_widen(chat, setting, worst):
            for each in chats:
                stack.enter_context(computing_in(each, torch.float32))
            shares = realised()
        if not is_taken(worst := _farthest(shares)):
            warn(chat, worst)
        yield shares


@contextmanager
def taking_small_moves(chat: Chat, setting: str) -> Iterator[None]:
    """As `taking`, for moves as short as finetuning makes them, before it is known where they lead."""
    share = realised_at_random(chat.weights, FINETUNING, chat.model.dtype)
    with ExitStack() as stack:
        if not is_taken(share):
            if may_widen(chat, setting, share):
                stack.enter_context(computing_in(chat, torch.float32))
            else:
                warn(chat, share)
        yield


def may_widen(chat: Chat, setting: str, share: float) -> bool:
    """Whether float32 may replace what a model computes in; a line says so."""
    if setting != "auto" or chat.model.dtype == torch.float32:
        return False
    tell(f"{chat.uri} computes in float32 here: {dtype_name(chat)} would realise {share:.2f} of a move.", sys.stderr)
    return True


def warn(chat: Chat, share: float) -> None:
    """Say that points are not where they should be."""
    tell(
        f"warning: rounding to {dtype_name(chat)} realises {share:.2f} of a move of {chat.uri}, so a point is not "
        "where its axis says. Use dtype=auto or float32, or models that differ more.",
        sys.stderr,
    )


def _farthest(shares: Sequence[float]) -> float:
    """The share farthest from 1; those of moves of length zero, NaN, do not count. NaN without any other."""
    return max((share for share in shares if share == share), key=lambda share: abs(share - 1), default=float("nan"))
