"""What `main` shares between its steps; the story itself is in test_end_to_end.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from visage_mlflow.commands.loading import Chats
from visage_mlflow.config import EvaluateConfig


def test_steps_share_a_model_only_where_they_agree_on_dtype_and_system_prompt(aligned_folder: Path) -> None:
    chats, uri = Chats(), str(aligned_folder)
    chat = chats.load(uri, EvaluateConfig(dtype="float32"))
    assert chats.load(uri, EvaluateConfig(dtype="float32", n_prompts=3)) is chat
    assert chats.load(uri, EvaluateConfig(dtype="bfloat16")).model.dtype != chat.model.dtype
    assert chats.load(uri, EvaluateConfig(dtype="float32", system_prompt="Be kind.")).system_prompt == "Be kind."


def test_a_model_that_cannot_be_loaded_is_refused_as_the_model() -> None:
    with pytest.raises(ValueError, match="`model` must be"):
        Chats().load("./nowhere", EvaluateConfig())
