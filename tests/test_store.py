"""Points on disk: read back as they were, shared by threads and processes, and never wrong after damage."""

import hashlib
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from visage_mlflow.measuring.store import DAY, LABEL, Store, open_store, store_folder
from visage_mlflow.text.errors import Mistake

ROOT = Path(__file__).parents[1]


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def content(number):
    """As a point's: of a length that depends on the number."""
    rng = random.Random(number)
    return [[f"{rng.getrandbits(64):x} " * rng.randrange(2, 30), "complied"] for _ in range(rng.randrange(1, 12))]


def fill(store, numbers):
    for number in numbers:
        store.put(key(number), content(number), kind="responses", model=f"org/model-{number % 2}")


def wholly(store, numbers):
    """Which points are there; none may be there as anything else than it was."""
    found = {number: kept for number in numbers if (kept := store.get(key(number))) is not None}
    assert [number for number, kept in found.items() if kept != content(number)] == []
    return list(found)


def file_of(store, number):
    (path,) = store.folder.glob(f"*/{key(number)}")
    return path


def one_line(caught):
    message = str(caught.value)
    assert message.startswith("`store` is ") and "\n" not in message and message.endswith(".")
    return message


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "points")


# What is kept


@pytest.mark.parametrize(
    "kept",
    [[["Sure,\n\t»ja«", "complied"], [None, "unjudged"]], ["", "🙂\ud83d"], [2.718281828459045, 5e-324, None], []],
)
def test_what_is_kept_comes_back_as_it_was(store, kept):
    store.put(key(0), kept, kind="responses", model="org/model")
    assert Store(store.folder).get(key(0)) == kept


def test_what_was_never_kept_is_none_and_what_is_kept_anew_replaces_the_old(store):
    assert store.get(key(0)) is None
    store.put(key(0), [1.0], kind="likelihood", model="org/model")
    store.put(key(0), [2.0], kind="likelihood", model="org/model")
    assert store.get(key(0)) == [2.0] and len(store.entries()) == 1


def test_entries_say_kind_model_use_and_size_the_longest_unused_first(store):
    fill(store, [0, 1])
    os.utime(file_of(store, 1), (1000, 1000))
    second, first = store.entries()
    assert (first.key, first.kind, first.model) == (key(0), "responses", "org/model-0")
    assert (second.key, second.model, second.used) == (key(1), "org/model-1", 1000.0)
    assert first.size == file_of(store, 0).stat().st_size


@pytest.mark.parametrize(("age", "is_noted"), [(DAY / 2, False), (2 * DAY, True)])
def test_reading_a_point_notes_its_use_once_a_day(store, age, is_noted):
    fill(store, [0])
    then = time.time() - age
    os.utime(file_of(store, 0), (then, then))
    store.get(key(0))
    assert (store.entries()[0].used > then + 1) == is_noted


def test_points_that_are_forgotten_are_gone(store):
    fill(store, range(4))
    store.remove([key(1), key(3), key(99)])
    assert wholly(store, range(4)) == [0, 2]


# Where it is


def test_the_setting_goes_before_the_variable_and_that_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VISAGE_STORE", raising=False)
    assert store_folder("") == tmp_path / "cache" / "points"
    monkeypatch.setenv("VISAGE_STORE", str(tmp_path / "shared"))
    assert store_folder("") == tmp_path / "shared" and store_folder("here") == Path("here").absolute()
    assert store_folder("off") is None and open_store("off") is None
    monkeypatch.setenv("VISAGE_STORE", "off")
    assert open_store("") is None
    assert open_store(str(tmp_path / "a" / "b")).folder.is_dir()  # Made, with the folders around it.


def test_the_file_of_an_earlier_version_is_refused_in_a_line_and_beside_the_default_mentioned_once(tmp_path, capsys):
    (tmp_path / "points.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(Mistake) as caught:
        Store(tmp_path / "points.db")
    assert "earlier versions" in one_line(caught)
    for _ in range(2):
        Store(tmp_path / "points")
    assert capsys.readouterr().err.count("earlier version") == 1
    assert (tmp_path / "points.db").read_bytes() == b"SQLite format 3\0"


def test_a_folder_of_other_things_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(Mistake) as caught:
        Store(tmp_path)
    assert "photo.jpg" in one_line(caught) and [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("where", ["in-a-file", "in-proc", "device", "long-name"])
def test_a_place_where_no_folder_can_be_is_one_line(tmp_path, where):
    (tmp_path / "file").touch()
    place = {
        "in-a-file": tmp_path / "file" / "points",
        "in-proc": Path("/proc/nowhere/points"),
        "device": Path("/dev/null"),
        "long-name": tmp_path / ("a" * 5000),
    }[where]
    with pytest.raises(Mistake) as caught:
        Store(place)
    one_line(caught)


# Damage


@pytest.mark.parametrize("seed", range(4))
def test_a_file_cut_or_with_a_flipped_bit_is_not_read_and_its_point_kept_anew(store, seed):
    rng = random.Random(seed)
    fill(store, range(6))
    cut, flipped = file_of(store, 0), file_of(store, 1)
    cut.write_bytes(cut.read_bytes()[: rng.randrange(cut.stat().st_size)])
    data = bytearray(flipped.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    flipped.write_bytes(data)
    assert wholly(store, range(6)) == [2, 3, 4, 5]
    assert [entry.kind for entry in store.entries()].count("damaged") == 2
    fill(store, [0, 1])
    assert wholly(store, range(6)) == list(range(6))


# Sharing


def test_threads_share_a_store(store):
    problems = []

    def work(first):
        try:
            for number in range(first, first + 12):  # Half of which the next thread writes, too.
                fill(store, [number])
                wholly(store, range(40))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(6 * index,)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and wholly(store, range(36)) == list(range(36))


def open_and_fill(folder, first, go):
    go.wait()
    fill(Store(folder), range(first, first + 10))


def test_processes_that_open_a_store_which_is_not_there_yet_all_write_to_it(tmp_path):
    context = multiprocessing.get_context("fork")
    go = context.Event()
    processes = [
        context.Process(target=open_and_fill, args=(tmp_path / "points", 5 * index, go)) for index in range(4)
    ]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert wholly(Store(tmp_path / "points"), range(25)) == list(range(25))


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_store import Store, fill
store, number = Store(Path({folder!r})), 0
while True:
    fill(store, [number])
    print(number, flush=True)
    number += 1
"""


def test_a_writer_that_is_killed_leaves_whole_points_and_loses_none_that_it_had_finished(tmp_path):
    script = WRITER.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(tmp_path / "points"))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    told += [int(line) for line in process.stdout]
    process.wait()
    assert wholly(Store(tmp_path / "points"), range(told[-1] + 2))[: len(told)] == told


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("a small disk cannot be mounted here, which takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_what_was_kept_before_can_be_read(small_disk):
    store, number = Store(small_disk / "points"), 0
    with pytest.raises(Mistake) as caught:
        while True:
            fill(store, [number])
            number += 1
    assert "No space left" in one_line(caught) and number > 20
    assert wholly(store, range(number + 1)) == list(range(number))
    assert not list(store.folder.glob("**/*.part"))
    with pytest.raises(Mistake) as caught:
        (small_disk / "ballast").write_bytes(bytes(1024)) if shutil.disk_usage(small_disk).free else None
        Store(small_disk / "another")
    assert "store=off" in one_line(caught)


def test_a_number_that_is_not_finite_comes_back(store):
    store.put(key(0), [math.nan], kind="likelihood", model="org/model")
    assert math.isnan(store.get(key(0))[0]) and (store.folder / LABEL).is_file()
