"""Several workers do what one does, each on its own copy of the model, and stop together when something goes wrong."""

import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from visage_mlflow.config import LandscapeConfig
from visage_mlflow.geometry.directions import Materialized, RandomDirection
from visage_mlflow.language import models
from visage_mlflow.studies import crew as workers
from visage_mlflow.studies import landscape, spans
from visage_mlflow.studies.crew import Crew, GivenUp, crew, share_of_cores
from visage_mlflow.studies.evaluation import attack, harmful_rows

PATIENCE = 30  # Seconds after which a test that would hang fails instead.


@pytest.fixture(scope="module")
def chat(aligned_folder):
    return models.load(str(aligned_folder), dtype="float32")


@pytest.fixture(scope="module")
def asking(sets):
    return {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 24, "max_new_tokens": 16}


@pytest.fixture
def threads():
    """A function that sets how many threads this process computes with; afterwards it is as it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def copy_of(chat):
    return {name: parameter.detach().clone() for name, parameter in chat.model.named_parameters()}


def all_are(chats, before):
    """Whether every model holds exactly these parameters."""
    return all(
        torch.equal(parameter, before[name]) for chat in chats for name, parameter in chat.model.named_parameters()
    )


def ignore(task, result):
    pass


def until_stopped(check):
    """Work that goes on until its worker is told to give up."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        check()
        time.sleep(0.005)
    pytest.fail("nobody stopped this worker")


# The same result


@pytest.fixture(scope="module")
def alone(chat, asking):
    return landscape.measure(chat, LandscapeConfig(n_points=9, extent=0.8, workers=1, **asking))


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_landscape_and_leaves_their_models_bit_for_bit(
    chat, asking, alone, n_workers
):
    config = LandscapeConfig(n_points=9, extent=0.8, workers=n_workers, **asking)
    before, team = copy_of(chat), crew(chat, config, config.n_points)
    assert len(team.chats) == n_workers and team.chat is chat
    line = spans.span(chat, "1d-random", config)
    result = landscape.landscape_on(team, line, line.grid_axes(config), harmful_rows(config), config)
    assert result == alone and 0 < alone[0].visage < 100
    assert all_are(team.chats, before)


def test_workers_on_a_bfloat16_model_give_the_same_landscape(aligned_folder, asking):
    coarse = models.load(str(aligned_folder), dtype="bfloat16")
    one, three = (
        landscape.measure(coarse, LandscapeConfig(n_points=5, extent=0.8, workers=n, **asking)) for n in (1, 3)
    )
    assert one == three and one[0].setup.dtype == "bfloat16"


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_each_task_is_done_once_by_one_of_the_workers_and_told_of_one_at_a_time(n_workers):
    results, telling = [], threading.Lock()

    def done(task, result):
        assert telling.acquire(blocking=False)
        time.sleep(0.001)
        results.append((task, result))
        telling.release()

    chats = tuple(f"chat {index}" for index in range(n_workers))
    Crew(chats).run(range(40), lambda chat, task, check: (chat, 2 * task), done=done)
    assert sorted(task for task, _ in results) == list(range(40))
    assert all(result == 2 * task and chat in chats for task, (chat, result) in results)


def test_a_worker_begins_tasks_in_order():
    begun = []
    Crew(("a",)).run([3, 1, 2], lambda chat, task, check: begun.append(task), done=ignore)
    assert begun == [3, 1, 2]


def test_two_workers_work_at_once():
    together = threading.Barrier(2)  # Passed only by two at a time; otherwise it breaks, which is an error.
    Crew(("a", "b")).run(range(6), lambda chat, task, check: together.wait(PATIENCE), done=ignore)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_tasks_that_are_not_wanted_are_left_out(n_workers):
    results = []
    Crew(("a", "b")[:n_workers]).run(
        range(10),
        lambda chat, task, check: task,
        wanted=lambda task: task % 3 == 0,
        done=lambda task, result: results.append(task),
    )
    assert sorted(results) == [0, 3, 6, 9]


def test_whether_a_task_is_wanted_is_asked_when_its_turn_comes():
    results = []
    Crew(("a",)).run(
        range(10),
        lambda chat, task, check: task,
        wanted=lambda task: len(results) < 4,
        done=lambda task, result: results.append(task),
    )
    assert results == [0, 1, 2, 3]


@pytest.mark.parametrize("n_workers", [1, 3])
def test_nothing_to_do_is_done(n_workers):
    Crew(("a", "b", "c")[:n_workers]).run([], lambda chat, task, check: pytest.fail("asked"), done=ignore)


# What goes wrong


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_error_of_a_task_is_raised_and_the_other_workers_give_up(failing):
    begun, gave_up, all_at_work = [], [], threading.Barrier(3)

    def work(chat, task, check):
        begun.append(task)
        all_at_work.wait(PATIENCE)
        if task == failing:
            raise RuntimeError("out of memory")
        try:
            until_stopped(check)
        except GivenUp:
            gave_up.append(task)
            raise

    with pytest.raises(RuntimeError, match="out of memory"):
        Crew(("a", "b", "c")).run(range(9), work, done=lambda task, result: pytest.fail("done"))
    assert sorted(begun) == [0, 1, 2] and sorted(gave_up) == sorted({0, 1, 2} - {failing})


def test_a_single_worker_raises_the_error_of_its_task_and_does_no_more():
    begun = []

    def work(chat, task, check):
        begun.append(task)
        check()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Crew(("a",)).run(range(3), work, done=ignore)
    assert begun == [0]


@pytest.mark.parametrize("where", ["wanted", "done"])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_error_of_what_is_asked_or_told_is_raised_too(where, n_workers):
    def fail(*args):
        raise OSError("no space left")

    told = {"wanted": lambda task: True, "done": ignore, where: fail}
    with pytest.raises(OSError, match="no space left"):
        Crew(("a", "b")[:n_workers]).run(range(4), lambda chat, task, check: task, **told)


def test_models_are_put_back_bit_for_bit_when_attacking_fails_on_one_of_them(chat, asking, monkeypatch):
    both, moved = threading.Barrier(2), []
    before = copy_of(chat)

    def failing(chat, rows, config, steps, check):
        moved.append(not all_are([chat], before))
        both.wait(PATIENCE)
        if steps[0] < 0:
            raise RuntimeError("out of memory")
        until_stopped(check)

    monkeypatch.setattr(landscape, "attack", failing)
    config = LandscapeConfig(n_points=3, workers=2, **asking)
    team, line = crew(chat, config, 3), spans.span(chat, "1d-random", config)
    with pytest.raises(RuntimeError, match="out of memory"):
        landscape.landscape_on(team, line, line.grid_axes(config), harmful_rows(config), config)
    assert moved == [True, True] and all_are(team.chats, before)


def test_an_interrupt_stops_the_workers_within_seconds_and_leaves_the_models_bit_for_bit(
    chat, asking, monkeypatch, threads
):
    threads(2)
    sent, both, before = [], threading.Barrier(2), copy_of(chat)

    def interrupted(chat, rows, config, steps, check):
        if both.wait(PATIENCE) == 0:  # One of the two presses Ctrl-C.
            sent.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        until_stopped(check)

    monkeypatch.setattr(landscape, "attack", interrupted)
    config = LandscapeConfig(n_points=5, workers=2, **asking)
    team, rows = crew(chat, config, 5), harmful_rows(config)
    direction = Materialized(RandomDirection(), chat.weights)
    # A shell that runs tests in the background may have told them to ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            landscape.measure_grid(team, [direction], [[-0.5, -0.25, 0.0, 0.25, 0.5]], rows, config)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(sent) == 1 and time.monotonic() - sent[0] < 5
    assert all_are(team.chats, before) and torch.get_num_threads() == 2


def test_an_attack_gives_up_when_it_is_told_to(chat, asking):
    calls = []

    def check():
        calls.append(1)
        raise GivenUp

    config = LandscapeConfig(**asking)
    with pytest.raises(GivenUp):
        attack(chat, harmful_rows(config), config, check=check)
    assert calls == [1]


# Shares of the cores


@pytest.mark.parametrize(("n_threads", "n_workers", "share"), [(4, 2, 2), (5, 2, 2), (4, 3, 1), (2, 3, 1), (4, 4, 1)])
def test_each_worker_has_its_share_of_the_cores_and_they_are_given_back(threads, n_threads, n_workers, share):
    threads(n_threads)
    found = []
    Crew(tuple(range(n_workers))).run(
        range(6),
        lambda chat, task, check: torch.get_num_threads(),
        done=lambda task, result: found.append(result),
    )
    assert found == [share] * 6 and torch.get_num_threads() == n_threads


def test_the_cores_are_given_back_after_an_error(threads):
    threads(4)
    with pytest.raises(RuntimeError), share_of_cores(2):
        assert torch.get_num_threads() == 2
        raise RuntimeError
    assert torch.get_num_threads() == 4


def test_a_single_worker_has_all_the_cores(threads):
    threads(3)
    found = []
    Crew(("a",)).run([0], lambda chat, task, check: torch.get_num_threads(), done=lambda _, n: found.append(n))
    assert found == [3]


# How many


@pytest.fixture
def memory(monkeypatch, chat):
    """A function that sets the free memory, in copies of the model's weights."""

    def set_free(copies):
        n_bytes = copies * sum(parameter.nbytes for parameter in chat.model.parameters())
        monkeypatch.setattr(workers.psutil, "virtual_memory", lambda: SimpleNamespace(available=n_bytes))

    set_free(1000)
    return set_free


def n_workers(chat, n_tasks=99, **settings):
    return len(crew(chat, LandscapeConfig(**settings), n_tasks).chats)


def test_there_is_one_worker_a_core_and_four_at_most_if_nobody_says_otherwise(chat, memory, threads):
    assert workers.MOST_WORKERS == 4
    for n_threads, expected in ((1, 1), (2, 2), (3, 3), (4, 4), (16, 4)):
        threads(n_threads)
        assert n_workers(chat) == expected


# A copy is reckoned at 3 times the weights, and half of the free memory stays free: a copy for every 6 times the
# weights, and the model itself works without one.
@pytest.mark.parametrize(("free", "expected"), [(0, 1), (5.9, 1), (6.1, 2), (11.9, 2), (12.1, 3), (100, 4)])
def test_copies_leave_half_of_the_free_memory_free(chat, memory, threads, free, expected):
    threads(8)
    memory(free)
    assert n_workers(chat) == expected


def test_lean_work_has_one_worker_unless_more_are_asked_for(chat, memory, threads):
    threads(4)
    assert n_workers(chat, lean=True) == 1 and n_workers(chat, lean=True, workers=2) == 2


def test_workers_that_were_asked_for_are_made_whatever_the_machine_has(chat, memory, threads):
    threads(1)
    memory(0)
    assert n_workers(chat, workers=5) == 5 and n_workers(chat, workers=1) == 1


@pytest.mark.parametrize(("asked_for", "n_tasks", "expected"), [(4, 3, 3), (4, 1, 1), (4, 0, 1), (0, 2, 2), (2, 9, 2)])
def test_there_are_never_more_workers_than_tasks(chat, memory, threads, asked_for, n_tasks, expected):
    threads(4)
    assert n_workers(chat, n_tasks, workers=asked_for) == expected


def test_copies_share_the_stored_weights_but_not_the_parameters_that_are_perturbed(chat):
    first, *others = crew(chat, LandscapeConfig(workers=3), 9).chats
    assert first is chat and len(others) == 2 and all_are(others, copy_of(chat))
    for other in others:
        assert other.weights is chat.weights
        assert (other.uri, other.tokenizer, other.system_prompt) == (chat.uri, chat.tokenizer, chat.system_prompt)
    places = [parameter.data_ptr() for one in (first, *others) for parameter in one.model.parameters()]
    places += [weight.data_ptr() for weight in chat.weights.values()]
    assert len(set(places)) == len(places)


def test_tied_weights_are_tied_in_copies_too(chat):
    _, other = crew(chat, LandscapeConfig(workers=2), 2).chats
    assert chat.model.lm_head.weight is chat.model.get_input_embeddings().weight
    assert other.model.lm_head.weight is other.model.get_input_embeddings().weight
