"""The chat model behind any URI, loaded as a command's settings want it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from visage_mlflow.config import AttackConfig
from visage_mlflow.language import models
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.models import Chat
from visage_mlflow.measuring.measure import askable_ordinary
from visage_mlflow.measuring.rows import Asked, askable, readable, special
from visage_mlflow.text.printing import tell
from visage_mlflow.tracking.lookup import fetch

FORM = ("system_prompt", "template", "special_tokens")
"""Settings that decide how chats become tokens."""


def load(
    uri: str,
    attack: AttackConfig,
    asked: Sequence[Asked] = (),
    read: Sequence[Asked] = (),
    check: Callable[[ChatFormat], None] = lambda form: None,
) -> Chat:
    """Load a chat model for measuring; one in MLflow is downloaded.

    Args:
        uri: Where it is.
        attack: How it is asked.
        asked: The prompts that it will answer.
        read: Those whose given answers it will read.
        check: Called before weights are loaded; raises Mistake for what else cannot be asked of the model.

    Raises:
        Mistake: The URI leads to no readable chat model with finite weights, or rows do not fit its context window.
    """

    def check_all(form: ChatFormat) -> None:
        check_rows(form, attack, asked, read)
        check(form)
        if caution := special(form, list(dict.fromkeys([*asked, *read]))):
            tell(caution, sys.stderr)

    return models.load(uri, dtype=attack.dtype, fetch=fetch, base=attack.base, check=check_all, **_form(attack))


def check_asked(uri: str, attack: AttackConfig, asked: Sequence[Asked], read: Sequence[Asked]) -> None:
    """Raise Mistake, without loading weights, where a model cannot be asked so; takes the same as `load`."""
    check_rows(models.load_format(uri, fetch=fetch, base=attack.base, **_form(attack)), attack, asked, read)


def check_rows(form: ChatFormat, attack: AttackConfig, asked: Sequence[Asked], read: Sequence[Asked]) -> None:
    """Raise Mistake where rows do not fit into the context window, or ordinary prompts, which every model is asked."""
    if asked and not JUDGES[attack.judge].judges_coherence:
        askable_ordinary(form)
    askable(form, asked, attack)
    readable(form, read, attack)


def _form(attack: AttackConfig) -> dict[str, Any]:
    """The settings of how chats become tokens."""
    return {name: getattr(attack, name) for name in FORM}


@dataclass
class Chats:
    """Loaded models: steps share one where they agree on the URI, the base, the dtype and the form of the chats."""

    loaded: dict[tuple[str, ...], Chat] = field(default_factory=dict)

    def load(self, uri: str, attack: AttackConfig, asked: Sequence[Asked] = (), read: Sequence[Asked] = ()) -> Chat:
        """The model as a step's settings want it."""
        form = json.dumps(_form(attack), sort_keys=True)
        key = uri, attack.base, attack.dtype, form
        if key not in self.loaded:
            self.loaded[key] = load(uri, attack, asked, read)
        return self.loaded[key]
