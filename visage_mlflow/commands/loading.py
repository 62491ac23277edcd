"""The chat model behind any URI, loaded as a command's settings want it."""

from __future__ import annotations

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
