"""Who measures which point: threads of this process, each with its own copy of the model and share of the cores."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import psutil
import torch

from visage_mlflow.config import WorkersConfig
from visage_mlflow.language.models import Chat
from visage_mlflow.measuring.measure import Measurer

MOST_WORKERS = 4
"""Workers chosen by themselves, at most: each costs a copy of the model, and memory bandwidth is shared."""

Task = TypeVar("Task")
Done = TypeVar("Done")


class GivenUp(Exception):
    """Another worker failed, or the user interrupted: the work in progress is not needed any more."""


@dataclass(frozen=True)
class Crew:
    """Workers, each with its own copy of one model (the first has the model itself), and what they measure with."""

    chats: tuple[Chat, ...]
    measure: Measurer

    @property
    def chat(self) -> Chat:
        """The model itself."""
        return self.chats[0]

    def run(self, tasks: Iterable[Task], work: Callable[[Measurer, Chat, Task], Done]) -> Iterator[tuple[Task, Done]]:
        """Do tasks in order, as many at once as there are workers, and yield each with its result as it is done.

        A task is taken from `tasks` only when a worker is free, after the results before it were yielded; so a
        generator can leave out what these make needless.

        Args:
            tasks: What to do.
            work: Does one task with a worker's own model, on that worker's thread.

        Raises:
            Exception: The first that a task raised. Then, after an interrupt, and if no more results are asked for,
                the others give up within a few tokens.
        """
        if len(self.chats) == 1:  # In the main thread, where an interrupt arrives at once.
            for task in tasks:
                yield task, work(self.measure, self.chat, task)
            return
        is_over = threading.Event()

        def check() -> None:
            if is_over.is_set():
                raise GivenUp
            self.measure.check()

        measure = self.measure.checked(check)
        waiting = iter(tasks)
        with share_of_cores(len(self.chats)), ThreadPoolExecutor(len(self.chats)) as pool:
            running: dict[Future[Done], tuple[Task, Chat]] = {}

            def start(chat: Chat) -> None:
                for task in islice(waiting, 1):
                    running[pool.submit(work, measure, chat, task)] = task, chat

            try:
                for chat in self.chats:
                    start(chat)
                while running:
                    done = wait(running, return_when=FIRST_COMPLETED).done
                    for future in sorted(done, key=lambda one: one.exception() is not None):  # What succeeded first.
                        task, chat = running.pop(future)
                        yield task, future.result()
                        start(chat)
            finally:  # Also where the caller's loop ends early, which closes this generator.
                is_over.set()


def crew(chat: Chat, config: WorkersConfig, n_tasks: int, measure: Measurer) -> Crew:
    """A model with as many copies as work on `n_tasks` can use.

    Args:
        chat: The model, unperturbed.
        config: How many workers. 0 chooses: one a core, at most `MOST_WORKERS`, while at least half of the free memory
            stays free; a copy is assumed to take three times its weights, for what decoding keeps. Lean work has one.
        n_tasks: More workers than tasks are never made.
        measure: What they measure with.
    """
    n_workers = config.workers
    if n_workers == 0:
        weight_bytes = sum(parameter.nbytes for parameter in chat.model.parameters())
        copies = int(psutil.virtual_memory().available / 2 / (3 * weight_bytes))
        n_workers = 1 if config.lean else min(torch.get_num_threads(), MOST_WORKERS, 1 + copies)
    copies = max(1, min(n_workers, n_tasks)) - 1
    chats = (chat, *(replace(chat, model=copy.deepcopy(chat.model)) for _ in range(copies)))
    return Crew(chats, measure)


@contextmanager
def share_of_cores(n_workers: int) -> Iterator[None]:
    """Inside, threads that begin to compute use a worker's share of the cores that this process uses."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, n_threads // n_workers))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
