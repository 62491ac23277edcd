"""Flags and recipe in; a config, or one clear line, out."""

import errno
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from pydantic import TypeAdapter

from visage_mlflow.commands.command_line import bar, parse, read_recipe, run, tell
from visage_mlflow.config import EvaluateConfig, FinetuneConfig, LandscapeConfig, MainConfig
from visage_mlflow.text.errors import Mistake

ROOT = Path(__file__).parent.parent
DEFAULT = FinetuneConfig()


@pytest.fixture(autouse=True)
def plain_process(monkeypatch):
    """Neither `mlflow run` nor a debugging shell around the test, and the process' own answer to SIGTERM after it."""
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("VISAGE_DEBUG", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe and returns its path."""

    def write(content, name="paper.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def refusal(config_class, *flags):
    with pytest.raises(ValueError) as caught:
        parse(config_class, flags)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and "class '" not in message
    return message


# What wins


def test_flags_beat_the_recipe_and_the_recipe_beats_the_defaults(recipe):
    path = recipe("safe: 7\nbenign: 8\n")
    config = parse(FinetuneConfig, ["--config", path, "--benign", "9"])
    assert (config.safe, config.benign, config.epochs) == (7, 9, DEFAULT.epochs)


def test_no_flags_give_the_defaults():
    assert parse(FinetuneConfig, []) == DEFAULT and parse(FinetuneConfig, ["--config", ""]) == DEFAULT


def test_under_mlflow_run_a_flag_that_repeats_the_default_is_no_less_a_flag(recipe, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert parse(FinetuneConfig, ["--config", recipe("epochs: 55"), f"--epochs={DEFAULT.epochs}"]) == DEFAULT
    assert capsys.readouterr().err == ""


def test_the_budget_of_main_is_a_recipe_and_sections_are_set_by_dotted_flags():
    quick = parse(MainConfig, ["--budget", "quick"])
    assert quick.budget == "quick" and quick.align.safe == read_recipe("quick")["align"]["safe"]
    changed = parse(MainConfig, ["--budget", "quick", "--align.safe", "10", "--visage.seed=3"])
    assert (changed.align.safe, changed.visage.seed) == (10, 3)
    assert changed.align.benign == quick.align.benign and changed.harmful == quick.harmful


def test_a_recipe_of_ones_own_takes_the_place_of_the_budget(recipe):
    config = parse(MainConfig, ["--config", recipe("align: {safe: 3}\nmixed: {harmful: 4, seed: 5}")])
    assert (config.align.safe, config.mixed.harmful, config.mixed.seed) == (3, 4, 5)
    assert config.align.benign == DEFAULT.benign


def test_a_number_in_the_exponent_form_that_yaml_takes_for_text_is_a_number(recipe):
    assert parse(FinetuneConfig, ["--config", recipe("learning_rate: 5e-5")]).learning_rate == 5e-5


def test_text_that_looks_like_something_else_stays_text():
    assert parse(EvaluateConfig, ["--model", "123"]).model == "123"
    assert parse(EvaluateConfig, ["--system_prompt", "Be: brief"]).system_prompt == "Be: brief"
    assert parse(EvaluateConfig, ["--system_prompt", ""]).system_prompt == ""
    assert parse(EvaluateConfig, ["--system_prompt", "null"]).system_prompt is None


# Flags that are refused


@pytest.mark.parametrize("value", ["2.5", "2.0", "many", "true", "", "1e3", "null"])
def test_a_whole_number_takes_nothing_else(value):
    message = refusal(FinetuneConfig, f"--safe={value}")
    assert "`safe`" in message and "whole number" in message and "--help" in message


@pytest.mark.parametrize("value", ["fast", "", "2.5.3", "true"])
def test_a_number_takes_no_text(value):
    message = refusal(FinetuneConfig, f"--epochs={value}")
    assert "`epochs`" in message and "expected a number" in message


@pytest.mark.parametrize(
    "flags", [["--epoch", "5"], ["--harmfull=3"], ["--learning-rate", "1"], ["5"], ["--align", "1"]]
)
def test_an_unknown_or_shortened_flag_is_refused(flags):
    assert flags[0] in refusal(FinetuneConfig, *flags)


def test_a_flag_without_its_value_is_refused():
    assert "--safe: expected one argument" in refusal(FinetuneConfig, "--benign", "3", "--safe")


def test_an_unknown_section_key_and_a_section_given_as_a_number_are_refused():
    assert "--align.saef" in refusal(MainConfig, "--align.saef", "1")
    assert "--align" in refusal(MainConfig, "--align", "10")


def test_the_rule_that_a_section_breaks_is_told_with_the_section():
    assert refusal(MainConfig, "--mixed.safe", "-1").startswith(
        "In `mixed`: `safe` must be a whole number of at least 0"
    )


def test_the_rule_that_two_flags_break_together_is_told():
    assert refusal(LandscapeConfig, "--plane", "1d-interpolation").startswith("`to` is empty")


# Recipes that are refused


def test_an_unknown_recipe_is_refused_with_those_there_are():
    message = refusal(FinetuneConfig, "--config", "papre")
    assert message.startswith("`config` must be one of ") and "'papre'" in message
    assert "default" in message and "quick" in message and ".yaml" in message


def test_a_recipe_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    for name in ("gone.yaml", "folder.yaml"):
        assert refusal(FinetuneConfig, "--config", str(tmp_path / name)).startswith("`config` must be one of ")


def test_an_unknown_budget_is_refused_as_a_budget():
    message = refusal(MainConfig, "--budget", "huge")
    assert message.startswith("`budget` must be one of ") and "'huge'" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [", "not UTF-8 YAML"),
        ("a: b: c", "not UTF-8 YAML"),
        (b"model: \xff\xfe", "not UTF-8 YAML"),
        ("- safe\n- benign", "must hold `setting: value` lines"),
        ("", "must hold `setting: value` lines"),
        ("safe", "must hold `setting: value` lines"),
    ],
)
def test_a_recipe_that_is_no_yaml_of_settings_is_refused(recipe, content, reason):
    path = recipe(content)
    message = refusal(FinetuneConfig, "--config", path)
    assert message.startswith(f"`config` is {path!r}") and reason in message and message.endswith("Mend the file.")


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ("saef: 1", "saef"),
        ("safe: 2.5", "`safe`"),
        ("safe: many", "`safe`"),
        ("safe: true", "`safe`"),
        ("safe: [1]", "`safe`"),
        ("model: 123", "`model`"),
        ("config: quick", "`config`"),
        ("budget: quick", "`budget`"),
        ("1: 2", "1"),
    ],
)
def test_a_setting_that_a_recipe_gets_wrong_is_named_with_the_recipe(recipe, content, culprit):
    path = recipe(content)
    message = refusal(FinetuneConfig, "--config", path)
    assert message.startswith(f"Recipe {path}") and culprit in message


@pytest.mark.parametrize(
    ("content", "culprit"), [("align: 10", "got 10"), ("align:", "got None"), ("align: [1]", "[1]")]
)
def test_a_section_that_a_recipe_gives_as_something_else_is_refused(recipe, content, culprit):
    message = refusal(MainConfig, "--config", recipe(content))
    assert "`align` is a section" in message and culprit in message


def test_an_unknown_key_in_a_section_of_a_recipe_is_refused(recipe):
    assert "align.saef" in refusal(MainConfig, "--config", recipe("align: {saef: 1}"))


def test_null_is_refused_where_a_setting_cannot_be_left_open(recipe):
    message = refusal(FinetuneConfig, "--config", recipe("epochs: null"))
    assert message == f"`epochs` must have a value, got null. Leave it out for the default, {DEFAULT.epochs}."
    assert parse(FinetuneConfig, ["--config", recipe("system_prompt: null")]).system_prompt is None


# The shell


def test_an_entry_point_that_returns_exits_with_0():
    seen = []
    assert run(EvaluateConfig, seen.append, ["--n_prompts", "3"]) == 0
    assert seen == [EvaluateConfig(n_prompts=3)]


def test_a_bad_setting_exits_with_2_and_one_line_before_anything_is_called(capsys):
    assert run(EvaluateConfig, lambda config: pytest.fail("called"), ["--n_prompts", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: `n_prompts` must be a whole number of at least 1, got 0. Try 1.\n"
    assert captured.out == ""


def test_a_mistake_of_the_user_exits_with_2_and_its_own_line(capsys):
    assert run(EvaluateConfig, raiser(Mistake("`model` is 'x', which is gone. Check the id.")), []) == 2
    assert capsys.readouterr().err == "error: `model` is 'x', which is gone. Check the id.\n"


@pytest.mark.parametrize(
    "work",
    [
        lambda config: numpy.zeros(3).reshape(2, 2),
        lambda config: torch.optim.SGD([], lr=1.0),
        lambda config: transformers.AutoConfig.for_model("no such model"),
        lambda config: TypeAdapter(int).validate_python("many"),
    ],
    ids=["numpy", "torch", "transformers", "pydantic"],
)
def test_a_value_error_of_a_library_is_a_bug_and_not_the_users_mistake(capsys, work):
    with pytest.raises(ValueError):
        work(None)
    assert run(EvaluateConfig, work, []) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: This is a bug: Val") and line.endswith("`--debug` shows the traceback.\n")
    assert line.count("\n") == 1


def raiser(error):
    def fail(config):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError(), "error: This is a bug: ZeroDivisionError. `--debug` shows the traceback."),
        (KeyError("x\ny"), "error: This is a bug: KeyError: 'x\\ny'. `--debug` shows the traceback."),
        (RuntimeError("two\nlines. "), "error: RuntimeError: two lines. `--debug` shows the traceback."),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
            "error: This is a bug: UnicodeDecodeError: 'utf-8' codec can't decode",
        ),
        (MemoryError(), "error: The memory is used up (MemoryError). Lower `batch_size`, or set `workers=1`"),
        (OSError(errno.ENOSPC, "No space left"), "error: The disk is full (OSError: [Errno 28] No space left). Free"),
        (OSError(errno.EDQUOT, "Quota"), "error: The disk is full (OSError: [Errno 122] Quota). Free some space;"),
        (sqlite3.OperationalError("database or disk is full"), "error: The disk is full (OperationalError: database"),
        (PermissionError(errno.EACCES, "Denied"), "error: PermissionError: [Errno 13] Denied. `--debug` shows"),
        (RecursionError("too deep"), "error: RecursionError: too deep. `--debug` shows the traceback."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_error_is_one_line_too_and_no_success(capsys, error, line):
    assert run(EvaluateConfig, raiser(error), []) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(line) and captured.err.count("\n") == 1 and captured.out == ""


def test_memory_that_torch_does_not_get_is_told_with_what_to_lower(capsys):
    def allocate(config):
        torch.empty(2**60)

    assert run(EvaluateConfig, allocate, []) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: The memory is used up") and "`batch_size`" in line and "`lean=true`" in line


def test_a_full_disk_is_told_though_another_error_came_of_it(capsys):
    def fail(config):
        try:
            raise OSError(errno.ENOSPC, "No space left")
        except OSError as error:
            raise RuntimeError("cannot save") from error

    assert run(EvaluateConfig, fail, []) == 1
    assert capsys.readouterr().err.startswith("error: The disk is full (RuntimeError: cannot save). Free some space;")


def test_what_is_raised_shows_no_secret_moves_no_cursor_and_is_not_endless(capsys):
    text = "no postgresql://ann:hunter2@host \x1b[2J\u202e\u2028 " + "x" * 100_000 + " Mend it."
    for error in (Mistake(text), ValueError(text), RuntimeError(text)):
        assert run(EvaluateConfig, raiser(error), []) != 0
        line = capsys.readouterr().err
        assert "hunter2" not in line and len(line) < 1300 and "Mend it" in line
        assert line.splitlines() == [line.removesuffix("\n")] and line.removesuffix("\n").isprintable()


DEBUGGING = [["--debug"], ["--debug", "true"], ["--debug=true"], ["--debug", "--n_prompts", "3"]]


@pytest.mark.parametrize("flags", DEBUGGING, ids=" ".join)
def test_the_debug_flag_shows_the_traceback_before_the_line_without_secrets(capsys, flags):
    assert run(EvaluateConfig, raiser(RuntimeError("postgresql://ann:hunter2@host")), flags) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("Traceback (most recent call last)") and "in fail" in captured
    assert captured.splitlines()[-1].startswith("error: RuntimeError: postgresql://ann:***@host")
    assert "hunter2" not in captured


@pytest.mark.parametrize("flags", [[], ["--debug", "false"], ["--debug=false"]], ids=" ".join)
def test_without_it_there_is_no_traceback(capsys, flags):
    assert run(EvaluateConfig, raiser(ZeroDivisionError()), flags) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_debug_flag_is_no_setting_and_no_recipe_has_it(recipe):
    assert parse(EvaluateConfig, ["--debug", "true"]) == parse(EvaluateConfig, ["--debug"]) == EvaluateConfig()
    assert refusal(EvaluateConfig, "--debug", "loud").startswith("`debug` must be one of true, false, got 'loud'")
    assert "`debug`, which only the command can" in refusal(FinetuneConfig, "--config", recipe("debug: true"))


def test_the_debug_variable_shows_the_traceback_too(monkeypatch, capsys):
    monkeypatch.setenv("VISAGE_DEBUG", "1")
    assert run(EvaluateConfig, print, ["--n_prompts", "0"]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("Traceback") and captured.splitlines()[-1].startswith("error: `n_prompts`")


def test_what_is_printed_and_the_bar_hold_no_control_characters_and_no_secrets(capsys):
    hostile = "\x1b]0;taken\x07\x9b2J\u202e\ud800 https://token@host/x"
    with bar(1, hostile) as progress:
        progress((0.0,), 50.0)
    tell(f"{hostile}\nnext line")
    captured = capsys.readouterr()
    assert captured.out == "\\x1b]0;taken\\x07\\x9b2J\\u202e\\ud800 https://***@host/x\nnext line\n"
    assert "\\x1b]0;taken" in captured.err and not {"\x1b", "\x07", "\x9b", "\u202e"} & set(captured.err)
    assert "token@" not in captured.err


def test_nothing_in_the_project_prints_past_that():
    files = [path for wing in ("experiments", "visage_mlflow") for path in (ROOT / wing).rglob("*.py")]
    printing = {path.name for path in files if re.search(r"(?<![\w.])print\(", path.read_text(encoding="utf-8"))}
    # The lines of the last two hold nothing of others.
    assert printing == {"printing.py", "builtin.py", "sft.py"}


def test_an_interrupt_exits_with_130(capsys):
    def stop(config):
        raise KeyboardInterrupt

    assert run(EvaluateConfig, stop, []) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_help_exits_with_0(capsys):
    with pytest.raises(SystemExit) as caught:
        run(EvaluateConfig, print, ["--help"])
    assert caught.value.code == 0 and "--n_prompts" in capsys.readouterr().out


def test_a_process_shows_one_line_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", "--n_prompts", "x"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: `n_prompts`") and done.stderr.count("\n") == 1
