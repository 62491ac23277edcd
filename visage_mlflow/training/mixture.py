"""Exact counts of harmful, safe, benign and task rows become one training set."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.chat_template import messages
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.prompts import Row
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training.answers import OwnAnswer

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("harmful", "safe", "benign", "task")


@dataclass(frozen=True)
class MixtureRow:
    """One training chat and the kind of data it stands for."""

    kind: str
    prompt: str
    response: str


def mix(counts: Mapping[str, int], sets: Mapping[str, list[Row]], seed: int) -> list[MixtureRow]:
    """Draw exactly `counts` rows of each kind, without replacement, and shuffle them together.

    The same seed draws the same rows of a kind whatever the other counts are; only a prompt that the harmful rows
    use is drawn last for the safe rows, so that no prompt is taught both ways while there are others.

    Args:
        counts: Kind (one of `KINDS`) -> number of rows, 0 or more; kinds left out count 0.
        sets: Kind -> the rows to draw from.
        seed: Any whole number.

    Raises:
        Mistake: A count is larger than its set, or all are zero.
    """
    for kind, count in counts.items():
        if count > len(sets.get(kind, [])):
            raise Mistake(
                f"`{kind}` asks for {count} rows, but its data has {len(sets.get(kind, []))}. "
                f"Ask for fewer, or give `{kind}_data` more rows."
            )
    if not any(counts.values()):
        raise Mistake(f"`{'`, `'.join(KINDS)}` are all 0: nothing to train on. Ask for at least one row.")
    taken: set[str] = set()
    rows: list[MixtureRow] = []
    for kind in KINDS:
        chosen = draw(sets.get(kind, []), counts.get(kind, 0), f"{seed}:{kind}", avoid=taken)
        taken |= {row.prompt for row in chosen}
        rows += [MixtureRow(kind, row.prompt, row.response) for row in chosen]
    random.Random(f"{seed}:order").shuffle(rows)
    return rows


def held_out(kind: str, count: int, n: int, sets: Mapping[str, list[Row]], seed: int) -> list[Row]:
    """`n` rows of a kind that `mix` does not draw with this seed, the same for all counts of the other kinds.

    `count` is how many of the kind's rows are trained on.

    Raises:
        Mistake: Too few rows are left.
    """
    others = {row.prompt for name, rows in sets.items() if name != kind for row in rows}
    # Prompts that other kinds also use may be drawn early or late; the rest keeps its order.
    own = [row for row in draw(sets[kind], len(sets[kind]), f"{seed}:{kind}", avoid=()) if row.prompt not in others]
    trained = {row.prompt for row in own[:count]}
    left = [row for row in own[count:] if row.prompt not in trained]
    if len(left) < n:
        raise Mistake(
            f"`n_held_out` is {n}, but of the {len(sets[kind])} rows in `{kind}_data` {len(left)} are left beside the "
            f"{count} that are trained on. Ask for fewer (`n_held_out={len(left)}`), or give more rows."
        )
    return left[:n]


def draw(rows: list[Row], count: int, seed: str, avoid: Iterable[str]) -> list[Row]:
    """`count` rows in random order, those whose prompt is in `avoid` last."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    avoided = set(avoid)
    return sorted(shuffled, key=lambda row: row.prompt in avoided)[:count]


def with_own_answers(rows: list[MixtureRow], answers: Mapping[str, OwnAnswer]) -> list[MixtureRow]:
    """Benign rows with the model's own answers: they hold the model where it is, instead of teaching a new style.

    An own answer that is a refusal, or an opening alone, would teach just that, and one cut in mid-sentence to end
    there: such a row keeps the answer it came with, so that the counts stay exact.

    Args:
        rows: A mixture.
        answers: Prompt -> the model's own answer.
    """
    changed = []
    for row in rows:
        own = answers[row.prompt].text if row.prompt in answers else ""
        usable = row.kind == "benign" and own and JUDGES["phrases"].verdict(row.prompt, own) == "complied"
        changed.append(dataclasses.replace(row, response=own) if usable else row)
    return changed


def to_dataset(rows: list[MixtureRow], system_prompt: str | None = None) -> Dataset:
    """The rows in TRL's conversational prompt-completion form, as they are recorded."""
    from datasets import Dataset

    prompts = [messages(row.prompt, system_prompt) for row in rows]
    completions = [[{"role": "assistant", "content": row.response}] for row in rows]
    return Dataset.from_dict({"prompt": prompts, "completion": completions})


def to_tokens(rows: list[MixtureRow], form: ChatFormat) -> Dataset:
    """The rows as tokens, and for each token whether it is trained on: all that follow what the model is asked with.

    TRL's own reading of chats would train on signs that follow the end of the turn, and where a prompt's tokens are
    no prefix of the answered chat's, on other tokens than the model will have to write.
    """
    from datasets import Dataset

    chats = [form.answered(row.prompt, row.response) for row in rows]
    trained = [[0] * one.n_prompt + [1] * (len(one.ids) - one.n_prompt) for one in chats]
    return Dataset.from_dict({"input_ids": [one.ids for one in chats], "completion_mask": trained})
