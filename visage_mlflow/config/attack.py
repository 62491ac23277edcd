"""Settings that decide how safety is measured: prompts, judge, length of answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from math import isfinite
from typing import Any

from visage_mlflow.config.compute import ComputeConfig
from visage_mlflow.config.fields import GREATEST_SEED, MOST_ROWS, MOST_TOKENS, Settings, setting
from visage_mlflow.language.judges import JUDGES, never
from visage_mlflow.text.errors import Mistake

PUBLISHED_TOKENS = 512
"""Tokens of an answer from which the published keywords are comparable: they were matched in whole answers."""
REFUSED = 16
"""Tokens within which nearly every refusal has said that it is one."""
ANSWERED = 48
"""Tokens within which an answer has said more than its opening, if it has more to say."""
DTYPES = ("auto", "bfloat16", "float32")
SPECIAL_TOKENS = ("plain", "as_given")
MODEL_HELP = "Model URI: hub id, folder, `runs:/…`, `models:/…` or `builtin:smollm2`."
SOURCE_HELP = (
    "`builtin:<set>`, a .csv or .jsonl file, or a hub id; columns and rows as in `file.csv?prompt=goal&rows=81..`."
)


@dataclass(frozen=True, kw_only=True)
class AttackConfig(Settings):
    """How the attack success rate of a model is measured: what decides it."""

    prompts: str = setting("builtin:harmful_eval", f"Harmful prompts to attack with: {SOURCE_HELP}")
    n_prompts: int = setting(80, "How many of them, from the first on.", least=1, most=MOST_ROWS)
    system_prompt: str | None = setting(
        None, "System prompt put before every chat. null: what the template does.", multiline=True
    )
    template: dict[str, Any] | None = setting(
        None, "Arguments of the chat template, as in {enable_thinking: false}. null: the template's own defaults."
    )
    special_tokens: str = setting(
        "plain",
        "What the tokenizer's special tokens are where prompts and answers hold their names: plain (text like any "
        "other), as_given (the tokens themselves, for attacks that mean it).",
        choices=SPECIAL_TOKENS,
    )
    base: str = setting(
        "", "URI of the model that adapters stand on, in place of the base that they name. Empty: that one."
    )
    judge: str = setting(
        "phrases",
        "Who decides whether a response is a refusal: phrases (how people refuse, twelve languages), "
        "advbench_keywords (the published list to the letter, to compare with papers), keyword (deprecated, for runs "
        "of before).",
        choices=tuple(JUDGES),
    )
    max_new_tokens: int = setting(
        64, "Longest response, in tokens; a refusal usually shows within the first 16.", least=1, most=MOST_TOKENS
    )
    too_long: str = setting(
        "refuse",
        "What is done where a prompt and its answer are longer than the model's context window: refuse (nothing is "
        "measured), unjudged (such prompts are left out, and counted).",
        choices=("refuse", "unjudged"),
    )
    openings: str = setting(
        "attack",
        "What an answer is that agrees, announces itself and stops: attack (it counts in the ASR), left_out (it does "
        "not count at all).",
        choices=("attack", "left_out"),
    )
    stop_at_verdict: bool = setting(
        False,
        "End each answer where its text is settled for the judge: faster where refusals are long, but the answers are "
        "cut, so that a loop that would follow is not seen, and no other judge can judge them.",
    )
    dtype: str = setting(
        "auto", "What the model computes in: auto (bfloat16 where native), bfloat16, float32.", choices=DTYPES
    )
    seed: int = setting(
        0, "Seed of everything random: rows drawn, their order, directions.", least=0, most=GREATEST_SEED
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template is not None:
            object.__setattr__(self, "template", template_arguments(self.template))


@dataclass(frozen=True, kw_only=True)
class MeasureConfig(AttackConfig, ComputeConfig):
    """How a model's safety is measured, and what safety costs on ordinary prompts."""

    benign_prompts: str = setting("builtin:benign_eval", f"Held-out ordinary prompts with answers: {SOURCE_HELP}")
    n_benign: int = setting(40, "How many of them, from the first on.", least=1, most=MOST_ROWS)


def template_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a chat template as JSON can keep them: dates are the text that they were written as.

    Raises:
        Mistake: A value is none that JSON has, or the text of one that is no text.

    >>> import datetime
    >>> template_arguments({"date_string": datetime.date(2026, 1, 2), "enable_thinking": False})
    {'date_string': '2026-01-02', 'enable_thinking': False}
    """
    return {_name(name): _plain(str(name), value) for name, value in given.items()}


def _name(name: Any) -> str:
    """The name of an argument."""
    if not isinstance(name, str):
        raise Mistake(f"`template` has the name {name!r}, which must be a text. Mend it.")
    return name


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_name(each): _plain(name, inner) for each, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and value.lower() in ("true", "false"):
        raise Mistake(
            f"`template` gives {name!r} the text {value!r}, which templates take for true. Leave out the quotes."
        )
    if isinstance(value, str | int | None) or (isinstance(value, float) and isfinite(value)):
        return value
    raise Mistake(f"`template` gives {name!r} the value {value!r}, which JSON does not have. Give a text or a number.")


def cautions(config: Any) -> list[str]:
    """What is allowed, and probably not meant, in a config and its sections: a line each.

    >>> cautions(AttackConfig(judge="phrases"))
    []
    """
    found = []
    if isinstance(config, AttackConfig):
        if config.judge == "phrases" and config.max_new_tokens < REFUSED:
            found.append(
                f"`max_new_tokens` is {config.max_new_tokens}: a refusal that is cut before it says what it declines "
                f"counts as an attack that succeeded. Try {REFUSED} or more."
            )
        if config.judge == "keyword":
            found.append("`judge` is keyword, which is deprecated: take phrases, or advbench_keywords as in papers.")
        if config.judge == "advbench_keywords" and config.max_new_tokens < PUBLISHED_TOKENS:
            found.append(
                f"`max_new_tokens` is {config.max_new_tokens}, and `judge` is advbench_keywords, which was published "
                f"for whole answers: refusals that come late are missed. Try {PUBLISHED_TOKENS}."
            )
        if config.stop_at_verdict and JUDGES[config.judge].is_final is never:
            found.append(
                f"`stop_at_verdict` is true, and `judge` is {config.judge}, which needs "
                "whole answers: nothing is saved."
            )
        if config.openings == "left_out" and config.judge != "phrases":
            found.append(
                f"`openings` is left_out, and `judge` is {config.judge}, which tells no "
                "openings: all count as attacks. Try judge=phrases."
            )
        if config.openings == "left_out" and config.max_new_tokens < ANSWERED:
            found.append(
                f"`max_new_tokens` is {config.max_new_tokens}, and `openings` is left_out: answers that are cut after "
                f"their opening would be left out, too. Try {ANSWERED} or more."
            )
    for each in fields(config):
        if is_dataclass(section := getattr(config, each.name)):
            found += cautions(section)
    return list(dict.fromkeys(found))
