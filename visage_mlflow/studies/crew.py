"""Who computes which point: threads of this process, each with its own copy of the model and share of the cores."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import psutil
import torch

from visage_mlflow.config import LineConfig
from visage_mlflow.language.models import Chat

MOST_WORKERS = 4
"""Workers chosen by themselves, at most: each costs a copy of the model, and memory bandwidth is shared."""

Task = TypeVar("Task")
Done = TypeVar("Done")
Check = Callable[[], None]
"""Raises `GivenUp` if the work in progress is no longer wanted; long work calls it now and then."""


class GivenUp(Exception):
    """Another worker failed, or the user interrupted: the work in progress is not needed any more."""


@dataclass(frozen=True)
class Crew:
    """Copies of one model, each for one worker; the first is the model itself."""

    chats: tuple[Chat, ...]

    @property
    def chat(self) -> Chat:
        """The model itself."""
        return self.chats[0]

    def run(
        self,
        tasks: Sequence[Task],
        work: Callable[[Chat, Task, Check], Done],
        *,
        wanted: Callable[[Task], bool] = lambda task: True,
        done: Callable[[Task, Done], None],
    ) -> None:
        """Do tasks in order, as many at once as there are workers.

        Args:
            tasks: What to do.
            work: Does one task with a worker's own model, on a worker's thread.
            wanted: Asked before a task begins; tasks that are not wanted are left out.
            done: Told of each result. Like `wanted`, never called twice at once.

        Raises:
            Exception: The first that a task raised; the others stop then. An interrupt stops them, too.
        """
        waiting = iter(tasks)
        lock, stop = threading.Lock(), threading.Event()
        errors: list[BaseException] = []

        def check() -> None:
            if stop.is_set():
                raise GivenUp

        def labour(chat: Chat) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        task = next((task for task in waiting if wanted(task)), None)
                    if task is None:
                        return
                    result = work(chat, task, check)
                    with lock:
                        done(task, result)
            except BaseException as error:
                stop.set()
                errors.append(error)
                raise

        if len(self.chats) == 1:
            labour(self.chat)  # In the main thread, which an interrupt ends at once.
            return
        with share_of_cores(len(self.chats)), ThreadPoolExecutor(len(self.chats)) as pool:
            try:
                wait([pool.submit(labour, chat) for chat in self.chats])
            except BaseException:
                stop.set()
                raise
        if errors:
            raise errors[0]  # The others gave up because of this one.


def crew(chat: Chat, config: LineConfig, n_tasks: int) -> Crew:
    """A model with as many copies as work on `n_tasks` can use.

    Args:
        chat: The model, unperturbed.
        config: How many workers. 0 chooses: one a core, at most `MOST_WORKERS`, while at least half of the free memory
            stays free; a copy is reckoned at three times its weights, for what decoding keeps. Lean work has one.
        n_tasks: More workers than tasks are never made.
    """
    n_workers = config.workers
    if n_workers == 0:
        weight_bytes = sum(parameter.nbytes for parameter in chat.model.parameters())
        copies = int(psutil.virtual_memory().available / 2 / (3 * weight_bytes))
        n_workers = min(torch.get_num_threads(), MOST_WORKERS, 1 + copies)
        if config.lean:
            n_workers = 1
    copies = max(1, min(n_workers, n_tasks)) - 1
    return Crew((chat, *(replace(chat, model=copy.deepcopy(chat.model)) for _ in range(copies))))


@contextmanager
def share_of_cores(n_workers: int) -> Iterator[None]:
    """Inside, threads that begin to compute use a worker's share of the cores that this process uses."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, n_threads // n_workers))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
