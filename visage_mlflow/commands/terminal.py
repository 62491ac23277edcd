"""The `visage` command: what is asked of this machine and of models without a run.

visage doctor builtin:smollm2
visage store --prune --unused 30
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from visage_mlflow.commands.endings import ENDINGS, told
from visage_mlflow.commands.store import show_store
from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.printing import shown, tell


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ENDINGS as error:
        return told(error)


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what it cannot take."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the flags, and exit with 2."""
        tell(f"error: {message}. `{self.prog} --help` lists what it takes.", sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="visage", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    doctor = commands.add_parser("doctor", help="Say what can be measured on a model, without loading its weights.")
    doctor.add_argument("model", help="Its URI: hub id, folder, `runs:/…`, `models:/…` or `builtin:smollm2`.")
    doctor.add_argument(
        "--template", metavar="YAML", help="Arguments of its chat template: '{enable_thinking: false}'."
    )
    doctor.add_argument("--system_prompt", help="A system prompt to try.")
    doctor.add_argument("--base", default="", help="What an adapter stands on, in place of the base that it names.")
    doctor.set_defaults(run=_doctor)
    store = commands.add_parser("store", help="List the points already computed, or forget some.")
    store.add_argument("--store", default="", help="The folder, as in the setting `store` of the entry points.")
    store.add_argument("--prune", action="store_true", help="Forget the points that the other flags choose.")
    store.add_argument("--unused", type=float, metavar="DAYS", help="Those that were not used for so many days.")
    store.add_argument("--model", help="Those of the model with this URI.")
    store.add_argument("--all", action="store_true", help="All of them.")
    store.set_defaults(run=_store)
    return parser


def _store(arguments: argparse.Namespace) -> int:
    """Say what a store holds."""
    try:
        tell(show_store(arguments))
    except OSError as error:
        raise Mistake(f"The store cannot be used: {error.strerror or error}. Name another one by --store.") from error
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """Say what can be measured on a model; 2 where something of it cannot."""
    from visage_mlflow.commands.doctor import examine  # Its imports take seconds, which listing a store need not wait.

    findings = examine(arguments.model, arguments.template, arguments.system_prompt, arguments.base)
    width = max(len(finding.what) for finding in findings)
    tell(
        "\n".join(
            [
                shown(arguments.model),
                *(f"  {one.what:<{width}}  {'refused: ' if one.is_refused else ''}{one.said}" for one in findings),
            ]
        )
    )
    return 2 if any(one.is_refused for one in findings) else 0
