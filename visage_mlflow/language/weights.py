"""Weights that stay on disk and are read tensor by tensor, so that memory does not grow with the number of models."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from visage_mlflow.geometry.identity import Weights
from visage_mlflow.language.models import load_weights
from visage_mlflow.language.uris import Fetch
from visage_mlflow.text.errors import Mistake


def stored_weights(
    uri: str, folder: Path, fetch: Fetch | None = None, setting: str = "model", base: str = ""
) -> Weights:
    """The float32 weights behind a model URI, by parameter name, written to a file of their own in `folder`.

    A tensor is a view of the file; its pages are read when it is used. An adapter is merged into its base first, or
    into `base` if that is given, so all models read alike.

    Raises:
        Mistake: The URI leads to no readable chat model, or the folder has no room for its weights.
    """
    weights = Weights.of(load_weights(uri, fetch, setting, base))
    parts = weights.parts
    needed, free = sum(weight.nbytes for weight in weights.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise Mistake(
            f"`{setting}` is {uri!r}, whose weights take {needed / 1e9:.1f} GB in {str(folder)!r}, where "
            f"{free / 1e9:.1f} GB are free. Free some space, or point TMPDIR at a larger disk."
        )
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    del weights
    gc.collect()  # A model is full of cycles, and the next one would be loaded beside it.
    return Weights(load_file(path), parts)
