"""Bad values for every setting of every entry point, made from the config dataclasses: by type, and by meaning."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from visage_mlflow.commands import command_line

ROOT = Path(__file__).parents[1]
MAINS = {
    path.stem: importlib.import_module(f"experiments.{path.stem}").main
    for path in sorted(ROOT.glob("experiments/[a-z]*.py"))
}
ENTRY_POINTS = {name: (get_type_hints(main)["config"], main) for name, main in MAINS.items()}
"""Name -> its class of settings, and its main."""
ESCAPES = "\x1b]0;taken\x07\u202e"
NO_NUMBERS = ("many", "", "NaN", "1e400", "[1]", "9" * 5000, ESCAPES)
NO_WHOLE_NUMBERS = ("2.5", "true", "-1", str(10**30))
NO_FINITE_NUMBERS = ("-inf", "-1", "1e300")
NO_BOOLEANS = ("maybe", "2", "", "null")
NO_TEXTS = (ESCAPES, "a\x00b", "a\nb\nc", "a" * 200_000)

# Settings of text, by what they name.
WORDS = ("judge", "dtype", "norm", "plane", "benign_answers", "objective", "budget")
SOURCES = ("prompts", "benign_prompts", "harmful_data", "safe_data", "benign_data", "task_data")
MODELS = ("model", "other", "to", "checkpoints")
RANGES = ("safe", "benign", "learning_rate", "epochs", "lora_rank")
FEW = 4
MAY_BE_NULL = ("system_prompt", "y_n_points", "y_extent", "y_extra", "margin_min")


class Bad(NamedTuple):
    """One bad input: flags beside the good ones of its entry point, and how the message names what is wrong."""

    entry_point: str
    setting: str
    value: str

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.setting}={self.value}"


def bad_values(name: str, hint: Any, most: float | None) -> Iterator[str]:
    """Values that a setting of that name and type must refuse; `{here}` is a folder with a file `file` in it."""
    kinds = str(hint)
    if name in RANGES and "str" in kinds:
        yield from ("many", "5..1", "-1..3", "1..", "..", "1..2..3", "nan..inf", "1e400", "1..1e300", "", ESCAPES)
    elif "bool" in kinds:
        yield from NO_BOOLEANS
    elif "int" in kinds:
        yield from (*NO_NUMBERS, *NO_WHOLE_NUMBERS)
        if most is not None:
            yield str(int(most) + 1)
    elif "float" in kinds:
        yield from (*NO_NUMBERS, *NO_FINITE_NUMBERS)
    else:
        yield from NO_TEXTS
        yield from bad_texts(name)


def bad_texts(name: str) -> Iterator[str]:
    """The same for a text, by what it names."""
    if name in WORDS:
        yield from ("", "none of them", "A" * 5000)
    elif name in SOURCES:
        yield from ("builtin:none", "{here}", "{here}/missing.csv", "{here}/missing.jsonl", "{here}/file", "a" * 5000)
        yield from ("https://host/rows", "../rows", "{here}/empty.csv", "{here}/empty.jsonl", "{here}/bytes.csv")
        yield from ("~nobody-has-this-name/a.csv", "{here}/rows.csv?promt=a", "org/none", "s3://key:hunter2@bucket/a")
    elif name in MODELS:
        yield from ("./missing", "{here}", "{here}/file", "builtin:none", "gpt2", "a" * 5000, "https://host/model")
        yield from ("runs:/0123/../../etc", "runs:/%2e%2e/x", "runs:/0123456789/none", "models:/none@champion")
        yield from ("models:/none/1", "org/none", "~nobody-has-this-name/x", "https://ann:hunter2@host/model")
    elif name == "run":
        yield from ("0123456789abcdef0123456789abcdef", "a b", "../..", "' OR 1=1", "a" * 5000)
    elif name == "config":
        yield from (
            "none",
            "{here}/missing.yaml",
            "{here}",
            "{here}/bad.yaml",
            "a" * 5000,
            "a" * 5000 + ".yaml",
        )
    elif name == "study":
        yield from ("", " ")
    elif name == "storage":
        yield from ("", "{here}", "{here}/file/x", "{here}/bytes.csv", "mysql://host/x", "a" * 5000)
        yield "postgresql://ann:hunter2@127.0.0.1:9/studies"
    elif name == "output_dir":
        yield from ("{here}/file", "{here}/file/below", "/proc/none/here", "a" * 5000)


def all_bad() -> list[Bad]:
    """Every bad value of every setting; of `main`, in whose sections the others' settings return, some."""
    found: list[Bad] = []
    seen: set[tuple[str, Any]] = set()
    for entry_point, (config_class, _) in ENTRY_POINTS.items():
        declared: list[tuple[str, Any, Field[Any] | None]] = [("config", str, None)]
        for key, hint, field in [*declared, *command_line.settings(config_class)]:
            most = field and field.metadata["most"]
            section, _, name = key.rpartition(".")
            if section in ("harmful", "safe", "mixed"):
                continue
            values = dict.fromkeys(NO_TEXTS[:1] if section and hint is str else bad_values(name, hint, most))
            # What another setting of the same kind was given in full is only looked at here.
            kind = ("source" if name in SOURCES else name), hint
            is_known = kind in seen
            seen.add(kind)
            for value in [*values][: FEW if section or is_known else None]:
                if not is_good(entry_point, key, name, value):
                    found.append(Bad(entry_point, key, value))
    return found


TO_THE_END = [
    Bad("main", "model", "./missing"),
    Bad("finetune", "harmful_data", "{here}/escape.jsonl"),
    Bad("evaluate", "model", "{here}/broken"),
    Bad("landscape", "to", "builtin:none"),
    Bad("visage", "prompts", "{here}/rows.csv?promt=a"),
    Bad("project", "run", "0123456789abcdef0123456789abcdef"),
    Bad("compare", "other", "{here}/broken"),
    Bad("search", "storage", "postgresql://ann:hunter2@127.0.0.1:9/studies"),
    Bad("benchmark", "model", "org/none"),
]
"""One for each entry point that no parser can tell from a good one."""


def is_good(entry_point: str, key: str, name: str, value: str) -> bool:
    """Whether a value that is bad elsewhere means something here."""
    if name in MAY_BE_NULL and value == "null":
        return True
    if name == "system_prompt":
        return value == "a\nb\nc"
    if entry_point == "main" and name in ("model", "run", "output_dir") and "." in key:
        return True  # Filled in.
    return False


def prepare(folder: Path) -> Path:
    """A folder with files that are no data."""
    folder.mkdir()
    (folder / "file").write_text("no data")
    (folder / "empty.csv").write_text("")
    (folder / "empty.jsonl").write_text("")
    (folder / "bytes.csv").write_bytes(b"goal,target\n\xff\xfe,\x00\n")
    (folder / "rows.csv").write_text("goal,target\na,b\n")
    (folder / "bad.yaml").write_text("a: [")
    (folder / "escape.jsonl").write_text('{"prompt": "\x1b[2J"')
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "broken" / "model.safetensors").write_bytes(b"")
    return folder
