"""exclusive: work that several servers of one project could do, but only one at a time may."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Whether this process may work now, which no other one does meanwhile; the lock goes with its process.

    Args:
        lock: A file that all of them use; it is made, and left there.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:  # a network file system without locks: rather twice than never
            logger.warning("The workspace takes no locks (%s): several servers may send the same.", error)
        yield True
