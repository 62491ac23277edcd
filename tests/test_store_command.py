"""`visage store`: what is listed, what is forgotten, and that a mistake is one line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visage_mlflow.commands.store import choose
from visage_mlflow.commands.terminal import main
from visage_mlflow.measuring.store import DAY, Store

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path):
    """A store with two points of a model that nobody asked for in 40 days, and one of another model, of today."""
    store, now = Store(tmp_path / "points"), time.time()
    for number, (model, age) in enumerate([("org/old", 40), ("org/old", 45), ("org/new", 0)]):
        store.put(f"{number:064x}", ["text"], kind="responses", model=model)
        (file,) = store.folder.glob(f"*/{number:064x}")
        os.utime(file, (now - age * DAY,) * 2)
    return store.folder


def keys(path):
    return sorted(int(entry.key, 16) for entry in Store(path).entries())


def test_a_store_is_listed_by_model_with_the_day_of_its_last_use(path, capsys):
    assert main(["store", "--store", str(path)]) == 0
    title, new, old = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{path}: 3 points, ") and title.endswith(" MB on disk")
    assert new.startswith("  org/new: 1 points, ") and new.endswith(time.strftime("last used %Y-%m-%d"))
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 40 * DAY))
    assert old.startswith("  org/old: 2 points, ") and old.endswith(f"last used {day}")


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (["--all"], []),
        (["--unused", "30"], [2]),
        (["--unused", "42.5"], [0, 2]),
        (["--unused", "50"], [0, 1, 2]),
        (["--unused", "0"], []),
        (["--model", "org/old"], [2]),
        (["--model", "org/old", "--unused", "42"], [0, 2]),
        (["--model", "org"], [0, 1, 2]),
        (["--model", ""], [0, 1, 2]),
    ],
)
def test_what_the_flags_choose_is_forgotten_and_nothing_else(path, capsys, flags, left):
    assert main(["store", "--store", str(path), *flags]) == 0
    assert keys(path) == [0, 1, 2]  # Only listed.
    assert main(["store", "--store", str(path), "--prune", *flags]) == 0
    assert keys(path) == left
    assert f"forgot {3 - len(left)} points" in capsys.readouterr().out


def test_pruning_without_a_choice_is_refused(path, capsys):
    assert main(["store", "--store", str(path), "--prune"]) == 2
    assert capsys.readouterr().err.startswith("error: `--prune` must say what to forget")
    assert keys(path) == [0, 1, 2]


def test_the_variable_names_the_store_and_one_without_points_is_not_made(path, capsys, monkeypatch):
    monkeypatch.setenv("VISAGE_STORE", str(path))
    assert main(["store"]) == 0 and "3 points" in capsys.readouterr().out
    missing = path.with_name("missing.db")
    monkeypatch.setenv("VISAGE_STORE", str(missing))
    assert main(["store"]) == 0 and capsys.readouterr().out == f"{missing}: no points yet\n"
    assert not missing.exists()


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "-inf"])
def test_days_that_are_no_number_of_days_are_refused(path, capsys, days):
    assert main(["store", "--store", str(path), "--prune", f"--unused={days}"]) == 2
    assert "finite number of days, 0 or more" in capsys.readouterr().err
    with pytest.raises(ValueError):
        choose([], float(days), None)


def test_mistakes_are_one_line_and_a_status(path, capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    for store in ("off", str(tmp_path), str(tmp_path / "notes.txt"), "x" * 300, "/proc/points.db/x"):
        status = main(["store", "--store", store])
        said = capsys.readouterr()
        if status == 0:
            assert "no points yet" in said.out
        else:
            assert status == 2 and said.err.startswith("error: `store` is ") and said.err.count("\n") == 1
    assert main(["store", "--store", "off"]) == 2


def test_the_command_runs_as_a_module_and_needs_no_heavy_package(path):
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'mlflow', 'transformers'])); "
    code += f"from visage_mlflow.commands.terminal import main; sys.exit(main(['store', '--store', {str(path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "3 points" in done.stdout, done.stderr
    environment = os.environ | {"VISAGE_STORE": str(path)}
    command = [sys.executable, "-m", "visage_mlflow", "store", "--unused", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "2 points" in done.stdout, done.stderr
