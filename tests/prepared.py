"""Functions run in processes of their own at little cost: forked from one that has imported MLflow already."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

# A process with threads cannot be forked safely, and pyarrow's memory allocator starts one.
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

PREPARED = multiprocessing.get_context("forkserver")
PREPARED.set_forkserver_preload(["visage_mlflow.tracking.runs", "mlflow.store.tracking.sqlalchemy_store"])


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A process that runs a function of a test file's top level."""
    process = PREPARED.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process
