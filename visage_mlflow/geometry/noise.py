"""Gaussian noise as a pure function of a key."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from visage_mlflow.geometry.blocks import split


def gaussian(key: str, shape: torch.Size) -> Tensor:
    """Standard Gaussian noise rounded to float16, the same for the same key and shape, whatever was drawn before.

    float16 keeps 11 bits of each number, which no use of a random direction can tell from 24, and a direction that is
    kept takes half the memory.
    """
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    noise = torch.empty(shape, dtype=torch.float16)
    for block in split(noise):
        block.copy_(torch.randn(block.shape, generator=generator, dtype=torch.float32))
    return noise
