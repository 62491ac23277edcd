"""Chats as tokens: what the model reads, and which tokens end its turn."""

from __future__ import annotations

from typing import Any


def messages(prompt: str, system_prompt: str | None = None) -> list[dict[str, str]]:
    """The chat that asks `prompt`; without a system prompt, what stands before it is the template's choice."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": prompt}]


def encode(tokenizer: Any, chat: list[dict[str, str]]) -> list[int]:
    """The token ids of a chat, up to where the assistant's turn begins."""
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return ids


def encode_answered(tokenizer: Any, chat: list[dict[str, str]], answer: str) -> list[int]:
    """The token ids of a chat with its answer, end of turn included."""
    answered = [*chat, {"role": "assistant", "content": answer}]
    ids: list[int] = tokenizer.apply_chat_template(answered, tokenize=True, return_dict=False)
    return ids


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a turn."""
    ends = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    flat = {token for end in ends for token in (end if isinstance(end, list) else [end])}
    return sorted(flat - {None})  # Not every generation config names one.
