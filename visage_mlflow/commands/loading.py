"""The chat model behind any URI, loaded as a command's settings want it."""

from __future__ import annotations

from dataclasses import dataclass, field

from visage_mlflow.config import AttackConfig
from visage_mlflow.language import models
from visage_mlflow.language.models import Chat
from visage_mlflow.tracking.lookup import fetch


def load(uri: str, attack: AttackConfig) -> Chat:
    """Load a chat model for measuring; one in MLflow is downloaded.

    Raises:
        Mistake: The URI leads to no readable chat model with finite weights.
    """
    return models.load(uri, dtype=attack.dtype, system_prompt=attack.system_prompt, fetch=fetch)


@dataclass
class Chats:
    """Loaded models: steps share one where they agree on the URI, the dtype and the system prompt."""

    loaded: dict[tuple[str, str, str | None], Chat] = field(default_factory=dict)

    def load(self, uri: str, attack: AttackConfig) -> Chat:
        """The model as a step's settings want it."""
        key = uri, attack.dtype, attack.system_prompt
        if key not in self.loaded:
            self.loaded[key] = load(uri, attack)
        return self.loaded[key]
