"""Which process something belongs to, on whatever machine, and whether that process still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

Process = dict[str, str | float]


def this_process() -> Process:
    """This process, told from all others, on other machines too."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": psutil.Process().create_time()}


@cache
def space() -> str:
    """What this machine's numbers of processes count in: the boot, and the container. "" where it cannot be told.

    Two containers may bear one host name; a number of a process means something else in each.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_here(process: Mapping[str, Any]) -> bool:
    """Whether a process runs, or ran, where this one can tell if it still lives."""
    return bool(process["host"] == socket.gethostname() and process.get("space", space()) == space())


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process does not live any more, as far as can be told on this machine. Zombies are gone.

    Args:
        process: As `this_process` told it, with or without its `space`.
    """
    if not is_here(process):
        return False
    try:
        # Numbers of processes are used again; the moment of birth tells two of them apart.
        there = psutil.Process(int(process["pid"]))
        return bool(there.status() == psutil.STATUS_ZOMBIE or abs(there.create_time() - process["since"]) > 1)
    except psutil.NoSuchProcess:
        return True
