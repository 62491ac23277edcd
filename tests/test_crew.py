"""Several workers do what one does, each on its own copy of the model, and stop together when something goes wrong."""

import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from moved import bitwise, copy_of

from visage_mlflow.config import ComputeConfig, LandscapeConfig
from visage_mlflow.language import models
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.studies import crew as crews
from visage_mlflow.studies import spans
from visage_mlflow.studies.crew import Crew, GivenUp, crew
from visage_mlflow.studies.evaluation import harmful_rows

PATIENCE = 30  # Seconds after which a test that would hang fails instead.
OFF = Measurer(ComputeConfig(store="off"))


def crew_of(n_workers, measure=OFF):
    """Workers whose models are numbers."""
    return Crew(tuple(range(n_workers)), measure)


def until_stopped(measure):
    """Work that goes on until its worker is told to give up."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        measure.check()
        time.sleep(0.005)
    pytest.fail("nobody stopped this worker")


@pytest.fixture
def threads():
    """A function that sets how many threads this process computes with; afterwards it is as it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Tasks and results


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_each_task_is_done_once_by_one_of_the_workers_who_all_work_at_once(n_workers):
    together = threading.Barrier(n_workers)  # Passed only by all of them at a time; otherwise it breaks.

    def work(measure, chat, task):
        together.wait(PATIENCE)
        return chat, 2 * task

    found = list(crew_of(n_workers).run(range(12), work))
    assert sorted(task for task, _ in found) == list(range(12))
    assert all(result == 2 * task and chat in range(n_workers) for task, (chat, result) in found)
    assert list(crew_of(n_workers).run([], work)) == []


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_a_task_is_taken_when_a_worker_is_free_and_the_results_so_far_were_handed_over(n_workers):
    results, known_then = [], []

    def tasks():
        for task in [5, 3, 1, 4, 2, 0]:
            known_then.append(len(results))
            yield task

    begun = []
    for task, _ in crew_of(n_workers).run(tasks(), lambda measure, chat, task: begun.append(task)):
        results.append(task)
    assert known_then == [max(0, index - n_workers + 1) for index in range(6)]
    assert sorted(results) == list(range(6)) and (n_workers > 1 or begun == results == [5, 3, 1, 4, 2, 0])


# What goes wrong


@pytest.mark.parametrize(("n_workers", "failing"), [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_the_error_of_a_task_is_raised_and_the_other_workers_give_up(n_workers, failing):
    begun, gave_up, all_at_work = [], [], threading.Barrier(n_workers)

    def work(measure, chat, task):
        begun.append(task)
        all_at_work.wait(PATIENCE)
        if task == failing:
            raise RuntimeError("out of memory")
        try:
            until_stopped(measure)
        except GivenUp:
            gave_up.append(task)
            raise

    with pytest.raises(RuntimeError, match="out of memory"):
        list(crew_of(n_workers).run(range(9), work))
    assert sorted(begun) == list(range(n_workers)) and sorted([*gave_up, failing]) == sorted(begun)


@pytest.mark.parametrize("failing", ["the tasks", "the results"])
def test_workers_give_up_where_tasks_run_out_by_an_error_or_nobody_can_take_the_results(failing):
    gave_up = []

    def work(measure, chat, task):
        if task == 1:
            try:
                until_stopped(measure)
            except GivenUp:
                gave_up.append(task)
                raise

    def tasks():
        yield from range(2)
        if failing == "the tasks":
            raise OSError("no space left")
        yield 2

    with pytest.raises(OSError, match="no space left"):
        for task, _ in crew_of(2).run(tasks(), work):
            if failing == "the results":
                raise OSError("no space left")
            assert task == 0
    assert gave_up == [1]  # Not just told to: it is over before the error is on its way.


def test_a_check_that_the_measurer_has_already_counts_for_every_worker():
    def stop():
        raise TimeoutError("enough")

    for n_workers in (1, 2):
        with pytest.raises(TimeoutError, match="enough"):
            list(crew_of(n_workers, OFF.checked(stop)).run(range(4), lambda measure, *args: measure.check()))


# Models and cores are given back


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_are_put_back_bit_for_bit_when_decoding_fails_on_one_of_them(aligned_folder, sets, dtype, n_workers):
    chat = models.load(str(aligned_folder), dtype=dtype)
    prompts = str(sets / "harmful_eval.jsonl")
    config = LandscapeConfig(prompts=prompts, n_prompts=6, max_new_tokens=8, store="off", workers=n_workers)
    before, moved = copy_of(chat.model), []

    def fail():
        moved.append(any(not bitwise(copy_of(one.model), before) for one in team.chats))
        if len(moved) == 5:
            raise RuntimeError("out of memory")

    team = crew(chat, config, 9, Measurer(config, fail))
    rows, line = harmful_rows(config), spans.span(chat, "1d-random", config, OFF)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(
            team.run(
                [-0.5, 0.5, -0.25, 0.25],
                lambda measure, chat, step: measure(chat, Held(line.directions, (step,)), rows, config),
            )
        )
    assert len(moved) >= 5 and all(moved) and all(bitwise(copy_of(one.model), before) for one in team.chats)


def test_an_interrupt_stops_the_workers_and_leaves_models_and_cores_as_they_were(chat, threads):
    threads(2)
    both, before, moved = threading.Barrier(2), copy_of(chat.model), []
    config = LandscapeConfig(workers=2)
    team, line = crew(chat, config, 5, OFF), spans.span(chat, "1d-random", config, OFF)

    def interrupted(measure, chat, step):
        with Held(line.directions, (step,)).by(chat):
            moved.append(not bitwise(copy_of(chat.model), before))
            if both.wait(PATIENCE) == 0:  # One of the two presses Ctrl-C.
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            until_stopped(measure)

    # A shell that runs tests in the background may have told them to ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(team.run([-0.5, 0.5, -0.25, 0.25], interrupted))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert moved == [True, True] and all(bitwise(copy_of(one.model), before) for one in team.chats)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("n_threads", "n_workers", "share"), [(3, 1, 3), (4, 2, 2), (5, 2, 2), (4, 3, 1), (2, 3, 1), (4, 4, 1)]
)
def test_each_worker_has_its_share_of_the_cores_and_they_are_given_back(threads, n_threads, n_workers, share):
    threads(n_threads)
    found = list(crew_of(n_workers).run(range(6), lambda *args: torch.get_num_threads()))
    assert sorted(found) == [(task, share) for task in range(6)] and torch.get_num_threads() == n_threads


# How many


@pytest.mark.parametrize(
    ("expected", "cores", "free", "n_tasks", "settings"),
    [
        # One a core and four at most, if nobody says otherwise.
        *((expected, cores, 1000, 99, {}) for expected, cores in ((1, 1), (2, 2), (3, 3), (4, 4), (4, 16))),
        # A copy is reckoned at 3 times the weights, and half of the free memory stays free: a copy for every 6 times
        # the weights, and the model itself works without one.
        *((expected, 8, free, 99, {}) for expected, free in ((1, 0), (1, 5.9), (2, 6.1), (2, 11.9), (3, 12.1))),
        # Lean work has one, unless more are asked for; those that are asked for are made whatever the machine has.
        (1, 4, 1000, 99, {"lean": True}),
        (2, 4, 1000, 99, {"lean": True, "workers": 2}),
        (5, 1, 0, 99, {"workers": 5}),
        (1, 4, 1000, 99, {"workers": 1}),
        # Never more than tasks.
        *((expected, 4, 1000, n_tasks, {"workers": 4}) for expected, n_tasks in ((3, 3), (1, 1), (1, 0))),
        (2, 4, 1000, 2, {}),
    ],
)
def test_how_many_workers_there_are(monkeypatch, chat, threads, expected, cores, free, n_tasks, settings):
    n_bytes = free * sum(parameter.nbytes for parameter in chat.model.parameters())
    monkeypatch.setattr(crews.psutil, "virtual_memory", lambda: SimpleNamespace(available=n_bytes))
    threads(cores)
    assert len(crew(chat, LandscapeConfig(store="off", **settings), n_tasks, OFF).chats) == expected


def test_copies_share_the_stored_weights_but_not_the_parameters_that_are_perturbed(chat):
    first, *others = crew(chat, LandscapeConfig(store="off", workers=3), 9, OFF).chats
    assert first is chat and len(others) == 2
    for other in others:
        assert other.weights is chat.weights and bitwise(copy_of(other.model), copy_of(chat.model))
        assert (other.uri, other.tokenizer, other.system_prompt) == (chat.uri, chat.tokenizer, chat.system_prompt)
        assert other.model.lm_head.weight is other.model.get_input_embeddings().weight  # Tied, as in the model.
    places = [parameter.data_ptr() for one in (first, *others) for parameter in one.model.parameters()]
    places += [weight.data_ptr() for weight in chat.weights.values()]
    assert len(set(places)) == len(places)
