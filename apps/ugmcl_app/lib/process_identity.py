"""process_identity: a name for this process that no other ever has, and whether the process of a name has
ended."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

_SEPARATOR = "|"


def this_process() -> str:
    """A new name: the machine, the process and its start, and a part of chance, so that each call gives
    another one."""
    return _SEPARATOR.join([*_place(), str(os.getpid()), _started(os.getpid()) or "", uuid.uuid4().hex[:12]])


def has_ended(name: str) -> bool:
    """Whether the process with this name is known to have ended; False as well where nothing can be known,
    as of a process on another machine."""
    parts = name.split(_SEPARATOR)
    place = _place()
    if len(parts) != len(place) + 3 or parts[: len(place)] != place or "" in place:
        return False
    process, started = parts[len(place)], parts[len(place) + 1]
    return started != "" and process.isdigit() and _started(int(process)) != started


def _place() -> list[str]:
    """The machine, its boot, and the space in which process ids count; "" for what cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        return [socket.gethostname(), "", ""]
    return [socket.gethostname(), boot, space]


def _started(process: int) -> str | None:
    """When a process started, in ticks since the boot; None where there is no such process, or it is a mere
    entry that its parent has not fetched yet."""
    try:
        # The second field is the program's name in parentheses and may hold spaces.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
