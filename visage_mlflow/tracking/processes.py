"""Which process something belongs to, and whether that process still lives, as far as this machine can tell."""

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
    """This process, told from all others: its host, the space that its number counts in, number and birth."""
    born = psutil.Process().create_time()
    return {"host": socket.gethostname(), "space": _space(), "pid": os.getpid(), "since": born}


@cache
def _space() -> str:
    """What numbers of processes count in here: the boot, and the container. "" where it cannot be told.

    Two containers may share a host name; a number of a process means something else in each.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process, as `this_process` told it there, certainly does not live any more.

    One on another host or in another container cannot be looked at, so it is not certain. Zombies are gone.
    """
    if (process["host"], process.get("space")) != (socket.gethostname(), _space()):
        return False
    try:
        # Numbers of processes are used again; the moment of birth tells two of them apart.
        there = psutil.Process(int(process["pid"]))
        return bool(there.status() == psutil.STATUS_ZOMBIE or abs(there.create_time() - process["since"]) > 1)
    except psutil.NoSuchProcess:
        return True
