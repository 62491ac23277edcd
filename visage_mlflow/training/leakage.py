"""Are evaluation prompts among the training rows? Then what is measured is memory, not safety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visage_mlflow.language.overlap import nearest
from visage_mlflow.language.prompts import Row, row_range, split_source
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training.mixture import MixtureRow


@dataclass(frozen=True)
class Evaluated:
    """Rows that a model is measured on, and the setting and source that they come from."""

    setting: str
    source: str
    rows: Sequence[Row]


def leaked(rows: Sequence[MixtureRow], evaluated: Evaluated) -> dict[str, list[int]]:
    """Training prompt -> the places of the evaluation rows that it (nearly) is."""
    return nearest((row.prompt for row in rows), [row.prompt for row in evaluated.rows])


def check(
    rows: Sequence[MixtureRow],
    sets: Mapping[str, Sequence[Row]],
    sources: Mapping[str, str],
    evaluated: Sequence[Evaluated],
    *,
    allow_overlap: bool,
) -> int:
    """How many evaluation prompts are training rows, equal or nearly.

    Args:
        rows: The mixture.
        sets: Kind -> all rows of its data, by which rows are numbered.
        sources: Kind -> where its data comes from.
        evaluated: What is measured on.
        allow_overlap: Count only, rather than raise.

    Raises:
        Mistake: There are some. It tells numbers, no prompts: these may be harmful, and error messages travel.
    """
    total = 0
    for each in evaluated:
        found = leaked(rows, each)
        if not found:
            continue
        n_leaked = len({place for places in found.values() for place in places})
        total += n_leaked
        if allow_overlap:
            continue
        first = next(row for row in rows if row.prompt in found)
        number = first_row(sources[first.kind]) + [row.prompt for row in sets[first.kind]].index(first.prompt)
        n_drawn = sum(row.kind == first.kind for row in rows)
        kinds = [kind for kind in sources if any(row.kind == kind and row.prompt in found for row in rows)]
        raise Mistake(
            f"`{each.setting}` is {each.source!r}, and {n_leaked} of the {len(each.rows)} prompts measured on are "
            f"(nearly) trained on: rows of {', '.join(f'`{kind}_data` ({sources[kind]!r})' for kind in kinds)}; for "
            f"example row {number} of `{first.kind}_data` is number {found[first.prompt][0] + 1} of these prompts. "
            f"{_cure(each, sources[first.kind], first.kind, sets[first.kind], n_drawn)} Or set `allow_overlap=true`."
        )
    return total


def first_row(source: str) -> int:
    """The number, in its file or data set, of the first row of a source."""
    return row_range(split_source(source)[1].get("rows", "1.."))[0]


def _cure(evaluated: Evaluated, source: str, kind: str, data: Sequence[Row], n_drawn: int) -> str:
    """What to do instead: with one file for both, rows of it that are enough and of which none is measured on."""
    place, options = split_source(source)
    is_same = Path(place) == Path(split_source(evaluated.source)[0])
    if is_same and evaluated.setting != "task_data" and "rows" not in options and not place.startswith("builtin:"):
        near = nearest((row.prompt for row in data), [row.prompt for row in evaluated.rows])
        places = [place for place, row in enumerate(data) if row.prompt in near]
        joint = "&" if options else "?"
        if len(data) - places[-1] - 1 >= n_drawn:
            return f"Train on other rows (`{kind}_data={source}{joint}rows={places[-1] + 2}..`)."
        if places[0] >= n_drawn:
            return f"Train on other rows (`{kind}_data={source}{joint}rows=1..{places[0]}`)."
    return "Remove those rows from one of the two."
