"""What a command says when it ends early: one line with the reason and the cure, whatever was raised."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from visage_mlflow.text.printing import shown

LONGEST = 1200
"""Most characters of an error line. A longer one is cut in its middle: the reason begins it and the cure ends it."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")
MEMORY_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""Types that only wrong code raises, except for `Mistake`, which is a ValueError too."""
DEBUG = "`--debug` shows the traceback."


class Mistake(ValueError):
    """Something that the user can correct; its text names the setting, the value, the rule and the cure."""


class ServerAway(BaseException):
    """The tracking server cannot be reached; the text names it without a password. The same command works later.

    Like an interrupt, it is no `Exception`: it ends the process, and is no failure of the work in progress, such as a
    search's trial.
    """


def explained(error: BaseException) -> str:
    """The error in one line, without control characters and secrets.

    A `Mistake` keeps its text, which names the setting and the cure; anything else is named by its type, and called a
    bug where only the code can be wrong.
    """
    reason = " ".join(str(error).split()).rstrip(".")
    told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if isinstance(error, Mistake | ServerAway):
        line = str(error)
    elif is_full_disk(error):
        line = f"The disk is full ({told}). Free some space; the same command then goes on where it was."
    elif is_out_of_memory(error):
        line = f"The memory is used up ({told}). Lower `batch_size`, or set `workers=1` or `lean=true`."
    elif isinstance(error, BUGS):
        line = f"This is a bug: {told}. {DEBUG}"
    else:
        line = f"{told}. {DEBUG}"
    line, half = " ".join(shown(line).split()), LONGEST // 2 - 1
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that a disk is full."""
    return any(
        (isinstance(one, OSError) and one.errno in DISK_FULL) or _holds(one, DISK_FULL_WORDS) for one in chain(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that there is not enough memory."""
    return any(
        isinstance(one, MemoryError)
        or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        or (isinstance(one, RuntimeError) and _holds(one, MEMORY_WORDS))
        for one in chain(error)
    )


def _holds(error: BaseException, words: Sequence[str]) -> bool:
    return any(each in str(error).lower() for each in words)


def one_line(error: BaseException) -> str:
    """An error as one sentence, without control characters and secrets."""
    return (" ".join(shown(str(error)).split()) or type(error).__name__).rstrip(".") + "."
