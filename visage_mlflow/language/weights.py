"""Weights that stay on disk and are read tensor by tensor, so that many models need the memory of none."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from visage_mlflow.geometry import identity
from visage_mlflow.language.models import Fetch, load_weights
from visage_mlflow.text.errors import Mistake


class StoredWeights(Mapping[str, Tensor]):
    """A safetensors file as a mapping. A tensor is a view of the file; its pages are read when it is used."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = path
        self._file: Any = safe_open(path, framework="pt")
        self._names: list[str] = list(self._file.keys())  # type: ignore[no-untyped-call]

    @cached_property
    def digest(self) -> str:
        """As of `geometry.identity.digest`, taken once."""
        return identity.digest(dict(self))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def stored_weights(uri: str, folder: Path, fetch: Fetch | None = None, setting: str = "model") -> StoredWeights:
    """The float32 weights behind a model URI, by parameter name, written to a file of their own in `folder`.

    An adapter is merged into its base first, so all models read alike.

    Raises:
        Mistake: The URI leads to no readable chat model, or the folder has no room for its weights.
    """
    from safetensors.torch import save_file

    weights = {name: parameter.detach() for name, parameter in load_weights(uri, fetch, setting).named_parameters()}
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
    return StoredWeights(path)
