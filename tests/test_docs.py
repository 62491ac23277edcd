"""What docs/models.md says of families is what the tests hold."""

import re
from pathlib import Path

from chat_families import FAMILIES

DOCS = Path(__file__).parents[1] / "docs" / "models.md"


def test_the_table_of_families_says_what_is_tested():
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rows = {name: rest for name, *rest in cells if name in FAMILIES}
    assert list(rows) == list(FAMILIES)
    for name, family in FAMILIES.items():
        end, system, thinking, tied, takes = rows[name]
        assert (end, system) == (f"`{family.end}`", "yes" if family.has_system else "refused")
        assert bool(thinking) == bool(family.before) and ("begun" in thinking) == bool(family.opened)
        assert (tied, takes) == ("yes" if family.is_tied else "no", ", ".join(f"`{one}`" for one in family.takes))
