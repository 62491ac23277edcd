"""What can be measured on a model, and what is refused: told from its files, without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from visage_mlflow.decoding.respond import unsupported
from visage_mlflow.language import models
from visage_mlflow.language.chat_format import ASKED, ChatFormat, messages
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.printing import shown
from visage_mlflow.tracking.lookup import fetch


@dataclass(frozen=True)
class Finding:
    """What was found of one thing that measuring needs."""

    what: str
    said: str
    is_refused: bool = False


def examine(uri: str, template: str | None = None, system_prompt: str | None = None) -> list[Finding]:
    """Each thing that measuring a model needs, in the order in which it is met.

    Args:
        uri: The model's.
        template: Arguments of its chat template, as YAML.
        system_prompt: One to try.

    Raises:
        Mistake: The URI leads to no model, or `template` is no YAML mapping.
    """
    models.check_uri(uri)
    given = arguments_of(template)
    adapters, base_uri, place = models.adapters_and_base(uri, fetch)
    found = []
    try:
        form = models.load_format(uri, system_prompt=system_prompt, template=given, fetch=fetch)
    except Mistake as mistake:
        found.append(Finding("encode", one_line(mistake), is_refused=True))
    else:
        found += of_chats(form)
    found.append(Finding("adapters", f"{len(adapters)}, on {base_uri}" if adapters else "none"))
    try:
        found += of_weights(on_meta(place))
    except Exception as error:  # Each library raises its own types for a config that it cannot use.
        found.append(Finding("weights", f"refused: {one_line(error)}", is_refused=True))
    return found


def arguments_of(template: str | None) -> dict[str, Any]:
    """The arguments in a YAML mapping; Mistake where it is none."""
    try:
        given = yaml.safe_load(template or "{}")
    except yaml.YAMLError as error:
        raise Mistake(f"`template` is {template!r}, which is no YAML: {one_line(error)} Mend it.") from error
    if not isinstance(given, dict):
        raise Mistake(f"`template` must be a mapping such as {{enable_thinking: false}}, got {template!r}. Mend it.")
    return given


def of_chats(form: ChatFormat) -> list[Finding]:
    """What a chat template makes of chats."""
    turn = form.turn
    room = "no limit" if form.window is None else f"{form.window} tokens"
    ends = ", ".join(form.tokenizer.convert_ids_to_tokens(form.ends))
    answered = form.answered(ASKED, "Yes.")
    return [
        Finding("encode", f"context window: {room}; special tokens inside of prompts are plain text"),
        Finding("end", f"{shown(ends) or 'none'}, besides those of the model's generation_config.json"),
        Finding("system", system_of(form)),
        Finding("thinking", thinking_of(form)),
        Finding("template", f"arguments: {', '.join(sorted(form.takes)) or 'none'}"),
        Finding(
            "likelihood",
            f"exact: {shown(form.tokenizer.decode(answered.ids[answered.n_given :]))!r} is scored after the prompt"
            + (f" and {turn.before!r}" if answered.n_given > answered.n_prompt else ""),
        ),
        Finding("train", f"exact: on {shown(form.tokenizer.decode(answered.ids[answered.n_prompt :]))!r}"),
    ]


def system_of(form: ChatFormat) -> str:
    """Whether a system prompt may be given."""
    probe = "Probe of a system prompt"
    try:
        _ = ChatFormat(form.tokenizer, probe, form.arguments).turn
    except Exception as error:  # A template raises what it likes.
        return f"refused: the template {one_line(error).rstrip('.')}"
    own = form.rendered(messages(ASKED)).partition(ASKED)[0]
    told = form.rendered(messages(ASKED, probe)).partition(ASKED)[0]
    return "may be given" + ("; without one, the template writes its own" if len(own) > len(told) - len(probe) else "")


def thinking_of(form: ChatFormat) -> str:
    """What the template does about thinking."""
    turn = form.turn
    if turn.opened:
        said = f"the template opens it with {turn.opened}"
    elif turn.before.strip():
        said = f"answers are read after {turn.before!r}"
    else:
        said = "none that the template writes"
    return said + ("; template={enable_thinking: false} leaves it out" if "enable_thinking" in form.takes else "")


def on_meta(place: str) -> Any:
    """The model of a folder or hub id without any weights."""
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def of_weights(model: Any) -> list[Finding]:
    """What is known of a model's weights and of how it is decoded."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    reason = unsupported(model)
    return [
        Finding("tied", "yes: embedding and head are one matrix" if tied else "no"),
        Finding("decode", "own loop" if reason is None else f"by generate, which is slower: {reason}"),
    ]
