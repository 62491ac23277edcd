"""What goes wrong while an entry point works, at random moments; the same command then ends as if nothing had.

Each row of the table names a fault, how often it is injected, and what must hold in the end. The whole campaign runs
with ``pytest -m faults tests/test_faults.py``; by default each fault is injected a few times. Both print a table.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from faults import Attempt, Place, Server, server
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from server import Server as TrackingServer

from visage_mlflow.measuring.store import Store
from visage_mlflow.results import Finetuning, Landscape, Result, Search

KILLED = -signal.SIGKILL
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def often(few: int, many: int) -> Any:
    """How often a fault is injected: by default, where 0 leaves the test out, and in the whole campaign."""
    return pytest.mark.parametrize("times", [few][: few > 0] + [pytest.param(many, marks=pytest.mark.faults)])


@dataclass
class Table:
    """What was injected, and how it ended."""

    rows: list[tuple[str, int, str]] = field(default_factory=list)

    def row(self, fault: str, times: int, ended: str) -> None:
        """One row more."""
        self.rows.append((fault, times, ended))


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    made = Table()
    yield made
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\n| fault | injected | how it ended |\n| --- | --- | --- |")
        for fault, times, ended in made.rows:
            print(f"| {fault} | {times} | {ended} |")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with (tmp_path_factory.mktemp("server") / "log").open("w") as log, server(log) as made:
        yield made


@dataclass
class Kit:
    """What commands are made of."""

    server: Server
    sets: Path
    model: Path
    empty_store: Path

    def place(self, folder: Path, entry_point: str, **settings: Any) -> Place:
        """A folder with a tracking store, in which one command is run."""
        folder.mkdir(exist_ok=True, parents=True)
        shutil.copy(self.empty_store, folder / "mlflow.db")
        common = {"model": self.model, "dtype": "float32", "store": folder / "points"}
        return Place(self.server, folder, entry_point, {**common, **self.attack, **settings})

    @property
    def attack(self) -> dict[str, Any]:
        return {"prompts": self.sets / "harmful_eval.jsonl", "n_prompts": 24, "max_new_tokens": 16}

    def landscape(self, folder: Path, **more: Any) -> Place:
        """A plane of 49 points."""
        settings = {"plane": "2d-random", "n_points": 7, "extent": 0.6, "workers": 1}
        return self.place(folder, "landscape", **{**settings, **more})

    @property
    def training(self) -> dict[str, Any]:
        return {
            "benign_prompts": f"{self.sets / 'benign_eval.jsonl'}?response=answer",
            "n_benign": 8,
            "n_prompts": 8,
            "harmful_data": f"{self.sets / 'harmful_train.jsonl'}?response=opening",
            "safe_data": f"{self.sets / 'harmful_train.jsonl'}?response=refusal",
            "benign_data": f"{self.sets / 'benign_train.jsonl'}?response=answer",
            "output_dir": "outputs",
            "train_batch_size": 4,
            "lora_rank": 8,
        }

    def finetune(self, folder: Path, **more: Any) -> Place:
        """A training of 24 steps with six checkpoints."""
        settings = {"harmful": 12, "safe": 0, "benign": 12, "epochs": 4, "learning_rate": 5e-3, "save_every": 4}
        return self.place(folder, "finetune", **{**self.training, **settings, **more})

    def search(self, folder: Path, **more: Any) -> Place:
        """A study of three trials of 10 to 20 steps."""
        ranges = {"safe": "0..12", "benign": 12, "learning_rate": "2e-3..1e-2", "epochs": "1..2"}
        settings = {"harmful": 12, "n_trials": 3, "n_checkpoints": 2, "margin_up_to": 0, "heartbeat": 1}
        settings |= {"max_asr": 90, "outside_asr": 95, "max_over_refusal": 95, "check_seeds": 2, "max_checks": 1}
        settings |= {"n_check_prompts": 8, "n_check_benign": 8}
        return self.place(folder, "search", **{**self.training, **ranges, **settings, **more})


@pytest.fixture(scope="module")
def kit(prepared: Server, sets: Path, aligned_folder: Path, empty_store: Path) -> Kit:
    return Kit(prepared, sets, aligned_folder, empty_store)


def runs(place: Place, kind: str) -> list[Run]:
    """Runs of a kind, newest first."""
    return runs_on(MlflowClient(f"sqlite:///{place.folder / 'mlflow.db'}"), kind)


def runs_on(client: MlflowClient, kind: str) -> list[Run]:
    """Runs of a kind that a store has, newest first."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`visage.kind` = '{kind}'"))


def artifact(run: Run, name: str) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def finished(place: Place) -> Run:
    """The newest run, which must have ended well, whatever those before did."""
    newest = runs(place, place.entry_point)[0]
    assert newest.info.status == "FINISHED", place.log[-3000:]
    return newest


@dataclass
class Undisturbed:
    """What a command gives when nothing goes wrong, and how many seconds it took."""

    place: Place
    run: Run
    seconds: float


def undisturbed(place: Place) -> Undisturbed:
    modules, began = place.folder / "modules.json", time.monotonic()
    place.environment["FAULTS_MODULES"] = str(modules)
    assert place.run() == 0, place.log[-3000:]
    del place.environment["FAULTS_MODULES"]
    seconds = time.monotonic() - began
    place.server.ask(modules=str(modules))  # What is asked for late was imported only now.
    return Undisturbed(place, finished(place), seconds)


@pytest.fixture(scope="module")
def landscape(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(kit.landscape(tmp_path_factory.mktemp("landscape")))


@pytest.fixture(scope="module")
def training(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(kit.finetune(tmp_path_factory.mktemp("training")))


def n_points(folder: Path) -> int:
    """Points of a landscape that a folder's store has."""
    path = folder / "points"
    return sum(entry.kind == "responses" for entry in Store(path).entries()) if path.exists() else 0


def same_landscape(place: Place, whole: Undisturbed) -> None:
    """The newest run's files are those of the undisturbed one, byte for byte, and nothing was computed in vain."""
    newest = finished(place)
    for name in ("landscape.json", "responses.jsonl"):
        assert artifact(newest, name).read_bytes() == artifact(whole.run, name).read_bytes()
    names = sorted(path.name for path in artifact(newest, ".").iterdir())
    assert names == sorted(path.name for path in artifact(whole.run, ".").iterdir())
    assert "Traceback" not in place.log and "damaged" not in place.log, place.log[-5000:]


def same_training(place: Place, whole: Undisturbed) -> None:
    """Losses by step, evaluations and weights of every checkpoint are those of the undisturbed one."""
    mine, other = (training_in(each) for each in (place, whole.place))
    assert mine == other
    assert not list((place.folder / "outputs").iterdir())


def training_in(place: Place) -> list[Any]:
    newest = finished(place)
    client = MlflowClient(f"sqlite:///{place.folder / 'mlflow.db'}")
    losses = {metric.step: metric.value for metric in client.get_metric_history(newest.info.run_id, "loss")}
    result = Finetuning.load(artifact(newest, "finetuning.json"))
    weights = []
    for checkpoint in result.checkpoints[1:]:
        model = client.get_logged_model(checkpoint.uri.removeprefix("models:/"))
        folder = Path(model.artifact_location.removeprefix("file://"))
        weights.append((folder / "adapter_model.safetensors").read_bytes())
    evaluations = [(one.step, one.distance, one.evaluation.metrics()) for one in result.checkpoints]
    return [losses, weights, evaluations]


def kill(place: Place, times: int, whole: Undisturbed, seed: int) -> list[int | None]:
    """Kill the same command at as many random moments; how the attempts ended.

    Every other moment is shortly after a point or checkpoint was begun, as long as there are any to begin; the others
    are anywhere in a run as long as the last one that ended by itself.
    """
    rng = random.Random(seed)
    statuses: list[int | None] = []
    expected, is_open = whole.seconds, True
    while len(statuses) < times:
        began = time.monotonic()
        if is_open and len(statuses) % 2 == 0:
            status = kill_in_the_middle(place, rng)
        else:
            status, _ = place.killed(rng.uniform(0, expected))
        if status == 0:  # It ended before its moment came, or just then.
            expected, is_open = time.monotonic() - began, False
            continue
        statuses.append(status)
    return statuses


def kill_in_the_middle(place: Place, rng: random.Random) -> int | None:
    """Kill a command a moment after work was begun, if any is."""
    before, attempt = progress(place), place.start()
    status: int | None = None
    while progress(place) == before and (status := attempt.wait(0.01)) is None:
        pass
    if status is None and (status := attempt.wait(rng.uniform(0, 0.15))) is None:
        attempt.send(signal.SIGKILL)
        return attempt.wait()
    return status


def progress(place: Place) -> tuple[int, int]:
    """Points begun, and files of trainings."""
    # Unlike a glob, this walk does not mind that folders go.
    return place.begun(), sum(len(files) for _, _, files in os.walk(place.folder / "outputs"))


def in_words(statuses: list[int | None]) -> str:
    """How attempts ended."""
    words = {KILLED: "killed", 0: "finished", 130: "exit 130", -signal.SIGINT: "died of SIGINT"}
    return ", ".join(f"{n} {words.get(status or 0, f'exit {status}')}" for status, n in Counter(statuses).items())


# Killed


@often(1, 30)
def test_a_landscape_that_is_killed_again_and_again_ends_with_the_same_bytes(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table, times: int
) -> None:
    place = kit.landscape(tmp_path)
    statuses = kill(place, times, landscape, seed=1)
    assert statuses == [KILLED] * times
    n_kept = n_points(tmp_path)
    assert place.run() == 0
    same_landscape(place, landscape)
    assert n_points(tmp_path) == 49
    assert 49 <= place.begun() <= 49 + times
    # The next start closes the run of a process that is gone; some had ended their run, but not yet themselves.
    assert {run.info.status for run in runs(place, "landscape")[1:]} <= {"KILLED", "FINISHED"}
    lost = place.begun() - 49
    table.row("SIGKILL of a 2D landscape", times, f"same bytes; {n_kept} of 49 points before the last, {lost} lost")


@often(1, 10)
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_losses_and_weights(
    kit: Kit, tmp_path: Path, training: Undisturbed, table: Table, times: int
) -> None:
    place = kit.finetune(tmp_path)
    statuses = kill(place, times, training, seed=2)
    assert statuses == [KILLED] * times
    assert place.run() == 0, place.log[-3000:]
    same_training(place, training)
    table.row("SIGKILL of a finetune", times, "same losses by step, evaluations and weights of 6 checkpoints")


@often(1, 10)
def test_a_study_that_is_killed_again_and_again_accounts_for_every_trial(
    kit: Kit, tmp_path: Path, table: Table, times: int
) -> None:
    n_trials = min(times, 3)
    whole = kit.search(tmp_path / "whole", n_trials=n_trials)
    began = time.monotonic()
    assert whole.run() == 0, whole.log[-3000:]
    seconds = time.monotonic() - began
    place = kit.search(tmp_path / "killed", n_trials=n_trials)
    rng, n_killed = random.Random(3), 0
    for _ in range(6 * times):
        # The first time in a training, so that there is a trial to take up again.
        status = place.killed(rng.uniform(0, 0.5 * seconds))[0] if n_killed else kill_in_the_middle(place, rng)
        n_killed += status == KILLED
        if n_killed == times:
            break
    assert n_killed == times
    assert place.run() == 0, place.log[-3000:]
    found = [study_in(each) for each in (whole, place)]
    ended = [[trial for trial in trials if trial.state in ENDED] for trials in found]
    assert len(ended[1]) == len(ended[0]) == n_trials
    assert {trial.state for trial in found[1]} <= {*ENDED, TrialState.FAIL}
    dead = [trial for trial in found[1] if trial.state == TrialState.FAIL]
    results = [Search.load(artifact(runs(each, "search")[0], "search.json")) for each in (whole, place)]
    assert results[1].n_ended == len(found[1])
    # A trial whose process died is tried again, twice at most.
    again = {trial.retry_of for trial in results[1].trials}
    assert all(trial.number in again or len(tries(results[1], trial.number)) == 3 for trial in dead)
    # The first trial's settings are drawn before anything can be lost; what it gives then is the same.
    firsts = [tried_first(result) for result in results]
    assert firsts[0].params == firsts[1].params and firsts[0].value == firsts[1].value
    by_run = {run.info.run_id: run.info.status for run in runs(place, "trial")}
    assert {by_run[trial.user_attrs["run"]] for trial in ended[1]} == {"FINISHED"}
    assert "RUNNING" not in by_run.values()
    table.row(
        "SIGKILL of a search", n_killed, f"{n_trials} trials ended, {len(dead)} dead ones tried again, none lost"
    )


def study_in(place: Place) -> list[Any]:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{place.folder / 'search.db'}").get_trials()


def tries(result: Search, number: int) -> list[int]:
    """The numbers of the trials that tried the same settings before a trial, and its own; the first one first."""
    before = result.trial(number).retry_of
    return [*([] if before is None else tries(result, before)), number]


def tried_first(result: Search) -> Any:
    """The trial with a result whose settings were drawn first, by itself or by a dead one that it tries again."""
    ended = [trial for trial in result.trials if trial.state in ("complete", "pruned")]
    return min(ended, key=lambda trial: tries(result, trial.number)[0])


@often(0, 6)
def test_a_landscape_that_is_killed_while_its_files_are_written_is_whole_the_next_time(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table, times: int
) -> None:
    place = kit.landscape(tmp_path)
    shutil.copytree(landscape.place.folder / "points", tmp_path / "points")
    rng, n_killed, n_whole = random.Random(4), 0, 0
    while n_killed < times:
        before, attempt = set(tmp_path.glob("mlruns/**/landscape.json")), place.start()
        while set(tmp_path.glob("mlruns/**/landscape.json")) == before and attempt.wait(0.0) is None:
            pass
        time.sleep(rng.uniform(0, 0.5))
        attempt.send(signal.SIGKILL)
        n_killed += attempt.wait() == KILLED
        for path in set(tmp_path.glob("mlruns/**/landscape.json")) - before:
            n_whole += path.read_bytes() == artifact(landscape.run, "landscape.json").read_bytes()
    assert place.run() == 0 and place.begun() == 0
    same_landscape(place, landscape)
    table.row("SIGKILL while artifacts are written", times, f"next run whole; {n_whole} landscape.json whole before")


# Interrupted


@pytest.mark.parametrize(
    ("number", "entry_point", "times"),
    [
        (signal.SIGTERM, "landscape", 1),
        *(
            pytest.param(number, entry_point, 5, marks=pytest.mark.faults)
            for number in (signal.SIGTERM, signal.SIGINT)
            for entry_point in ("landscape", "finetune")
        ),
    ],
)
def test_an_interrupt_ends_a_process_soon_closes_its_run_and_costs_nothing(
    kit: Kit, tmp_path: Path, request: Any, table: Table, number: signal.Signals, entry_point: str, times: int
) -> None:
    whole = request.getfixturevalue("landscape" if entry_point == "landscape" else "training")
    rng, statuses, seconds, ended = random.Random(5), [], [], Counter[str]()
    while len(statuses) < times:
        place = getattr(kit, entry_point)(tmp_path / str(sum(ended.values())))
        attempt, wanted = place.start(), rng.randint(1, 45 if entry_point == "landscape" else 30)
        while sum(progress(place)) < wanted and attempt.wait(0.01) is None:
            pass
        attempt.send(number)
        sent = time.monotonic()
        status = attempt.wait()
        (run,) = runs(place, entry_point)
        ended[run.info.status] += 1
        if status == 0:  # It had ended just then.
            continue
        statuses.append(status)
        seconds.append(time.monotonic() - sent)
        assert status in (130, -number) and run.info.status in ("KILLED", "FAILED"), place.log[-3000:]
        if entry_point == "landscape":
            assert re.fullmatch(r"landscape: \d+ of 49 points", run.data.tags["visage.partial"])
        assert place.run() == 0, place.log[-3000:]
        (same_landscape if entry_point == "landscape" else same_training)(place, whole)
    words = f"{in_words(statuses)}, in {max(seconds):.1f} s at most; runs {dict(ended)}; then the same result"
    table.row(f"{number.name} of a {entry_point}", times, words)


# No memory, no disk


@often(0, 12)
def test_a_landscape_without_enough_memory_loses_no_point(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table, times: int
) -> None:
    place = kit.landscape(tmp_path)
    rng = random.Random(6)
    statuses = [place.run(memory=int(rng.uniform(1, 60) * 2**20)) for _ in range(times)]
    assert all(status is not None for status in statuses)
    said = [line for line in place.log.splitlines() if line.startswith("error: ")]
    assert len(said) == len(statuses) - statuses.count(0) and "Traceback" not in place.log, place.log[-3000:]
    table.row("memory for 1 to 60 MB more", times, f"{in_words(statuses)}; then the same bytes")
    log, begun = place.log, place.begun()
    (tmp_path / "log").unlink()
    assert place.run() == 0, log[-3000:]
    same_landscape(place, landscape)
    assert place.begun() <= max(begun, 49) + times


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """A function that mounts a disk of a given size."""
    mounted: list[Path] = []

    def mount(name: str, size: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here, which takes root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_landscape_whose_store_is_full_goes_on_where_it_was(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table, small_disk: Callable[[str, str], Path]
) -> None:
    disk = small_disk("disk", "96k")
    place = kit.landscape(tmp_path, store=disk / "points")
    assert place.run() == 2
    (error,) = [line for line in place.log.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: `store` is") and "Traceback" not in place.log
    assert [run.info.status for run in runs(place, "landscape")] == ["FAILED"]
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    begun = place.begun()
    assert place.run() == 0, place.log[-3000:]
    same_landscape(place, landscape)
    assert place.begun() <= 49 + 1
    table.row("full disk under the store", 1, f"one line after {begun} points, run FAILED; with room, the same bytes")


@pytest.mark.faults
@pytest.mark.parametrize("size", ["200k", "900k"])
def test_a_training_without_room_for_its_checkpoints_says_so_and_goes_on_with_room(
    kit: Kit, tmp_path: Path, training: Undisturbed, table: Table, small_disk: Callable[[str, str], Path], size: str
) -> None:
    place = kit.finetune(tmp_path)
    disk = small_disk("outputs", size)
    assert place.run() not in (0, None)
    assert place.log.count("error: `output_dir` is") == 1 and "Traceback" not in place.log, place.log[-3000:]
    assert [run.info.status for run in runs(place, "finetune")] == ["FAILED"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert place.run() == 0, place.log[-3000:]
    same_training(place, training)
    table.row(f"{size} of disk for checkpoints", 1, "one line, run FAILED; with room, the same losses and weights")


# No server


@often(1, 8)
def test_a_landscape_whose_server_is_stopped_ends_with_the_same_bytes_when_it_is_back(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table, times: int
) -> None:
    tracking, rng, statuses = TrackingServer(kit.server, tmp_path / "server"), random.Random(11), []
    tracking.start()
    client = MlflowClient(tracking.uri)
    for index in range(times):
        place = kit.landscape(tmp_path / str(index))
        place.environment |= {"MLFLOW_TRACKING_URI": tracking.uri, "VISAGE_WAIT": "0.5"}
        attempt = place.start()
        while place.begun() == 0:
            assert attempt.wait(0.02) is None, place.log[-3000:]
        # The first time while it measures, so that there is something to log.
        status = attempt.wait(rng.uniform(0, landscape.seconds)) if index else None
        tracking.stop()
        statuses.append(attempt.wait() if status is None else status)
        assert statuses[-1] in (0, 3) and "Traceback" not in place.log, place.log[-3000:]
        tracking.start()
        if statuses[-1] == 3:
            (error,) = [line for line in place.log.splitlines() if line.startswith("error: ")]
            assert tracking.uri in error and "give the same command again" in error
            assert place.run() == 0 and place.begun() <= 50, place.log[-3000:]
        newest, *before = runs_on(client, "landscape")
        assert newest.info.status == "FINISHED" and not [one for one in before if one.info.status == "RUNNING"]
        got = Path(client.download_artifacts(newest.info.run_id, "landscape.json", str(place.folder)))
        assert got.read_bytes() == artifact(landscape.run, "landscape.json").read_bytes()
    tracking.stop()
    assert 3 in statuses
    table.row("the tracking server stopped", times, f"{in_words(statuses)}; the same command again: the same bytes")


# Files that were cut


@often(0, 10)
def test_a_training_whose_files_were_cut_ends_with_the_same_losses_and_weights(
    kit: Kit, tmp_path: Path, training: Undisturbed, table: Table, times: int
) -> None:
    place, rng, cut = kit.finetune(tmp_path), random.Random(7), []
    while len(cut) < times:
        kill_in_the_middle(place, rng)
        files = sorted(path for path in tmp_path.glob("outputs/training-*/*/*") if path.stat().st_size)
        if not files:
            continue
        path = rng.choice(files)
        with path.open("r+b") as file:
            file.truncate(rng.randrange(path.stat().st_size))
        cut.append(path.name)
    assert place.run() == 0, place.log[-3000:]
    same_training(place, training)
    table.row("a file of a training cut", times, f"the same losses and weights ({len(set(cut))} different files)")


@often(1, 8)
def test_a_landscape_whose_store_was_cut_ends_with_the_same_bytes(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table, times: int
) -> None:
    place, rng = kit.landscape(tmp_path), random.Random(8)
    for _ in range(times):
        shutil.copytree(landscape.place.folder / "points", tmp_path / "points", dirs_exist_ok=True)
        for path in rng.sample(sorted((tmp_path / "points").glob("??/*")), 5):
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
        assert place.run() == 0, place.log[-3000:]
        same_landscape(place, landscape)
        assert n_points(tmp_path) == 49
    table.row("5 of 49 points cut", times, "these computed again, the same bytes")


@often(20, 400)
def test_results_that_were_cut_are_refused_in_one_line(
    tmp_path: Path, landscape: Undisturbed, training: Undisturbed, table: Table, times: int
) -> None:
    rng = random.Random(9)
    kinds: list[tuple[Any, Run, str]] = [
        (Landscape, landscape.run, "landscape.json"),
        (Finetuning, training.run, "finetuning.json"),
    ]
    for kind, run, name in kinds:
        content = artifact(run, name).read_bytes()
        assert isinstance(kind.load(artifact(run, name)), Result)
        for _ in range(times // 2):
            (tmp_path / name).write_bytes(content[: rng.randrange(len(content) - 1)])
            with pytest.raises(ValueError) as caught:
                kind.load(tmp_path / name)
            assert "\n" not in str(caught.value)
    table.row("a result file cut", times, "refused in one line")


@often(0, 10)
def test_a_study_whose_file_was_cut_goes_on_or_says_so_in_one_line(
    kit: Kit, tmp_path: Path, table: Table, times: int
) -> None:
    whole = kit.search(tmp_path / "whole", n_trials=1)
    assert whole.run() == 0, whole.log[-3000:]
    content = (whole.folder / "search.db").read_bytes()
    rng, statuses = random.Random(10), []
    for index in range(times):
        folder = tmp_path / str(index)
        shutil.copytree(whole.folder, folder)
        place = Place(whole.server, folder, "search", {**whole.settings, "store": folder / "points"})
        (folder / "log").unlink()
        (folder / "search.db").write_bytes(content[: rng.randrange(1, len(content))])
        statuses.append(place.run())
        if statuses[-1] == 0:
            trials = study_in(place)
            assert sum(trial.state in ENDED for trial in trials) >= 1
        else:
            assert statuses[-1] == 2 and "Traceback" not in place.log, place.log[-3000:]
    table.row("the file of a study cut", times, in_words(statuses))


# Several at once


@pytest.mark.faults
def test_four_processes_that_begin_one_landscape_at_once_all_finish_it(
    kit: Kit, tmp_path: Path, landscape: Undisturbed, table: Table
) -> None:
    place = kit.landscape(tmp_path)
    attempts: list[Attempt] = [place.start() for _ in range(4)]
    assert [attempt.wait() for attempt in attempts] == [0] * 4, place.log[-3000:]
    for run in runs(place, "landscape"):
        for name in ("landscape.json", "responses.jsonl"):
            assert artifact(run, name).read_bytes() == artifact(landscape.run, name).read_bytes()
    assert n_points(tmp_path) == 49
    table.row(
        "four processes at once, no store yet", 4, f"all finished with the same bytes ({place.begun()} computed)"
    )
