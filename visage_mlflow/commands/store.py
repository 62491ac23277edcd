"""The points already computed, which the store on this machine keeps: listed, or forgotten."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from itertools import groupby

from visage_mlflow.measuring.store import DAY, Entry, Store, open_store, store_folder
from visage_mlflow.text.errors import Mistake


def show_store(arguments: argparse.Namespace) -> str:
    """List a store, or forget points of it; what to say.

    Raises:
        Mistake: There is no store, it cannot be read, or the flags do not say what to forget.
    """
    folder = store_folder(arguments.store)
    if folder is None:
        raise Mistake("`store` is off, so there is none to list. Give --store a folder.")
    if not os.path.exists(folder):  # `Path.exists` raises for some names.
        return f"{folder}: no points yet"
    store = open_store(arguments.store)
    assert store is not None  # It is None for store=off only.
    chosen = choose(store.entries(), arguments.unused, arguments.model)
    if not arguments.prune:
        return table(store, chosen)
    if arguments.unused is None and arguments.model is None and not arguments.all:
        raise Mistake("`--prune` must say what to forget: give --unused DAYS, --model URI or --all.")
    store.remove([entry.key for entry in chosen])
    return f"forgot {len(chosen)} points\n{table(store, store.entries())}"


def choose(entries: Sequence[Entry], unused: float | None, model: str | None) -> list[Entry]:
    """The points that were not used for `unused` days, of one model; None leaves that open."""
    if unused is not None and not (math.isfinite(unused) and unused >= 0):
        raise Mistake(f"`--unused` must be a finite number of days, 0 or more, got {unused}. Try 30.")
    last = math.inf if unused is None else time.time() - unused * DAY
    return [entry for entry in entries if entry.used <= last and model in (None, entry.model)]


def table(store: Store, entries: Sequence[Entry]) -> str:
    """Where the store is and how large, and its points by model."""
    lines = [f"{store.folder}: {len(entries)} points, {sum(entry.size for entry in entries) / 1e6:.1f} MB on disk"]
    for model, group in groupby(sorted(entries, key=lambda entry: entry.model), key=lambda entry: entry.model):
        points = list(group)
        size = sum(entry.size for entry in points) / 1e6
        day = time.strftime("%Y-%m-%d", time.localtime(max(entry.used for entry in points)))
        lines.append(f"  {model}: {len(points)} points, {size:.1f} MB, last used {day}")
    return "\n".join(lines)
