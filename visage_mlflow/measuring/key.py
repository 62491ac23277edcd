"""The key of a measured point: a hash of all that decides it, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

import torch
import transformers

from visage_mlflow.language.models import Chat
from visage_mlflow.language.written import end_tokens

NUMERIC_VERSION = 3
"""Version of the code that decides numbers. Raise it with every change to what a measurement gives."""

NOT_DECISIVE = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Entries of a model's configuration that change nothing it computes. Training writes some of them. The tokens that
end a turn have an entry of their own in the key."""


def identity(decisive: Any) -> str:
    """SHA-256, in hexadecimal, of all that decides a number, as plain JSON, and of what computes it."""
    versions = {"numeric": NUMERIC_VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    # The processor's instructions decide which kernels run, and these differ in the last bits of bfloat16: one of 80
    # verdicts on SmolLM2 came out otherwise on another make.
    processor = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    processor.append(torch.backends.cpu.get_cpu_capability())  # ATEN_CPU_CAPABILITY may choose other kernels.
    text = json.dumps({"versions": versions, "processor": processor, **decisive}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def model_identity(chat: Chat) -> dict[str, Any]:
    """What decides a model's numbers besides its weights: configuration, tokenizer, and what it computes in."""
    settings = {name: value for name, value in chat.model.config.to_dict().items() if name not in NOT_DECISIVE}
    return {
        "configuration": json.dumps(settings, sort_keys=True, default=str),
        "attention": str(chat.model.config._attn_implementation),
        "tokenizer": _tokenizer_identity(chat.tokenizer),
        "ends": end_tokens(chat.model, chat.tokenizer),
        "dtype": str(chat.model.dtype),
        "device": chat.model.device.type,
    }


@cache
def _tokenizer_identity(tokenizer: Any) -> str:
    """SHA-256 of what turns tokens into text. What the model reads is in the key as tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    # How the last call padded and cut is part of the file, but decides nothing.
    content = {name: part for name, part in content.items() if name not in ("padding", "truncation")}
    described = [type(tokenizer).__name__, tokenizer.all_special_ids, content]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
