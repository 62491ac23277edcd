"""What a model writes: its tokens as text, and which of them end a turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from visage_mlflow.language.thinking import is_sign


def texts(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Tokens as texts: without special ones, but for those by which thinking is told from the answer."""
    if len(rows) == 0:
        return []  # `batch_decode` would give one empty text.
    left_out = _left_out(tokenizer)
    found: list[str] = tokenizer.batch_decode([[token for token in row if token not in left_out] for row in rows])
    return found


@cache
def _left_out(tokenizer: Any) -> frozenset[int]:
    """The special tokens that are no part of a text."""
    added = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special} | set(tokenizer.all_special_ids)
    return frozenset(number for number in special if not is_sign(tokenizer.convert_ids_to_tokens(number)))


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a turn."""
    ends = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    flat = {token for end in ends for token in (end if isinstance(end, list) else [end])}
    return sorted(flat - {None})  # Not every generation config names one.
