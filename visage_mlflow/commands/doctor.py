"""What can be measured on a model, and what is refused: told from its files, without loading its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from visage_mlflow.config.attack import template_arguments
from visage_mlflow.decoding.respond import unsupported
from visage_mlflow.geometry.parts import parts_of
from visage_mlflow.language import adapters, folders, models, uris
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.chat_template import ASKED, TOLD, ChatTemplate, messages
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.printing import shown
from visage_mlflow.tracking.lookup import fetch


@dataclass(frozen=True)
class Finding:
    """What was found of one thing that measuring needs."""

    what: str
    said: str
    is_refused: bool = False


def examine(uri: str, template: str | None = None, system_prompt: str | None = None, base: str = "") -> list[Finding]:
    """Each thing that measuring a model needs, in the order in which it is met.

    Args:
        uri: The model's.
        template: Arguments of its chat template, as YAML.
        system_prompt: One to try.
        base: What adapters stand on, in place of the base that they name.

    Raises:
        Mistake: The URI leads to no model, or `template` is no YAML mapping.
    """
    given = arguments_of(template)
    above, base_uri, _ = uris.adapters_and_base(uri, fetch, base=base)
    if base and not above:
        raise Mistake(f"`base` is {base!r}, and {uri!r} is no adapter, which alone stands on a base. Leave it out.")
    model, refused = None, []
    try:
        model = models.outline(uri, fetch, base=base)
    except Mistake as mistake:
        refused = [Finding("weights", one_line(mistake), is_refused=True)]
    try:
        form = models.load_format(uri, system_prompt=system_prompt, template=given, fetch=fetch, base=base)
        found = of_chats(form, model)
    except Mistake as mistake:
        found = [Finding("encode", one_line(mistake), is_refused=True)]
    return [*found, *(refused if model is None else of_weights(model, above, base_uri))]


def arguments_of(template: str | None) -> dict[str, Any]:
    """The arguments in a YAML mapping; Mistake where it is none."""
    try:
        given = yaml.safe_load(template or "{}")
    except yaml.YAMLError as error:
        raise Mistake(f"`template` is {template!r}, which is no YAML: {one_line(error)} Mend it.") from error
    if not isinstance(given, dict):
        raise Mistake(f"`template` must be a mapping such as {{enable_thinking: false}}, got {template!r}. Mend it.")
    return template_arguments(given)


def of_chats(form: ChatFormat, model: Any = None) -> list[Finding]:
    """What a chat template makes of chats; `model`, if it is known, may name more tokens that end an answer."""
    decode = form.tokenizer.decode
    if model is not None:
        models.decode_neutrally(model, form)
    all_ends = form.ends if model is None else model.generation_config.eos_token_id or []
    room = "any number of tokens" if form.window is None else f"{form.window} tokens"
    ends = ", ".join(filter(None, form.tokenizer.convert_ids_to_tokens(all_ends)))
    ids, n_prompt, n_given = form.answered(ASKED, "Yes.")
    after = f" after {decode(ids[n_prompt:n_given])!r}" if n_given > n_prompt else ""
    return [
        Finding("encode", f"exact; the context window holds {room}"),
        Finding("end", shown(ends) or "none: answers are as long as they may be"),
        Finding("system", system_of(form)),
        Finding("thinking", thinking_of(form)),
        Finding("template", f"takes {', '.join(sorted(form.takes)) or 'no arguments'}"),
        Finding("likelihood", f"exact; of an answer, {shown(repr(decode(ids[n_given:])))} is scored{shown(after)}"),
        Finding("train", f"exact; of an answer, {shown(repr(decode(ids[n_prompt:])))} is learned"),
    ]


def system_of(form: ChatFormat) -> str:
    """Whether a system prompt may be given."""
    try:
        ChatTemplate(form.tokenizer, TOLD, form.arguments).check("")
    except Mistake:
        return "refused: the template takes none"
    # Is there more before the question than the signs that stand around a system prompt?
    own, told = (form.rendered(messages(ASKED, each)).partition(ASKED)[0] for each in (None, TOLD))
    return (
        "may be given; without one, the template writes its own"
        if len(own) > len(told) - len(TOLD)
        else "may be given"
    )


def thinking_of(form: ChatFormat) -> str:
    """What the template does about thinking."""
    turn = form.turn
    if turn.opened:
        said = f"begun by the template with {turn.opened}, and left out of answers"
    elif turn.before.strip():
        said = f"left out of answers, as are the template's own signs {turn.before.strip()!r}"
    else:
        said = "left out of answers, if there is any"
    off = ChatTemplate(form.tokenizer, form.system_prompt, {**form.arguments, "enable_thinking": False})
    turns_off = "enable_thinking" in form.takes and off.rendered(messages(ASKED)) != form.rendered(messages(ASKED))
    return shown(said) + ("; `template={enable_thinking: false}` turns it off" if turns_off else "")


def of_weights(model: Any, above: Sequence[Path], base_uri: str) -> list[Finding]:
    """What is known of a model's weights: how they are tied, merged, moved and decoded."""
    parts = parts_of(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    still = [name for name, part in parts.items() if part.is_norm]
    stacked = {part.experts for part in parts.values() if part.experts is not None}
    moved = f"{sum(sizes[name] for name in parts) - sum(sizes[name] for name in still):,} weights move"
    moved += f", {len(still)} tensors of normalization layers do not"
    moved += f"; experts one by one ({', '.join(map(str, sorted(stacked)))} in a tensor)" if stacked else ""
    left_out = sum(sizes.values()) - sum(sizes[name] for name in parts)
    moved += f"; {left_out:,} weights of towers for other things than text do not count" if left_out else ""
    is_tied, reason = adapters.is_tied(model), unsupported(model)
    return [
        Finding("tied", "yes, the embedding is the head" if is_tied else "no"),
        Finding("adapters", adapters_of(above, base_uri, is_tied)),
        Finding("landscape", moved),
        Finding(
            "decode", "in batches whose rows leave at their end" if reason is None else f"by `generate`: {reason}"
        ),
    ]


def adapters_of(above: Sequence[Path], base_uri: str, is_tied: bool) -> str:
    """Which adapters stand on a model, and what becomes of them."""
    if not above:
        copies = "; one on the embedding or the head alone gives the two copies of their own" if is_tied else ""
        return f"none; those of kinds that can be merged are exact{copies}"
    kinds = [str(folders.read_object(folder / folders.ADAPTER_CONFIG).get("peft_type")) for folder in above]
    return f"{', '.join(kinds)}, on {shown(base_uri)}: merged when loaded, and then held against the live adapter"
