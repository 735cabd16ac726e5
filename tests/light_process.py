"""Python programs in processes of their own that import the app's floor: half of the time of an import goes
into packages that nothing here uses."""

from __future__ import annotations

import os
import sys

_LIGHT = "from lib.worker import UNUSED_PACKAGES, leave_out; leave_out(UNUSED_PACKAGES)\n"


def command(code: str, *arguments: object) -> list[str]:
    """A command line that runs `code` with these arguments; it wants `environment`."""
    return [sys.executable, "-c", _LIGHT + code, *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's, with what it can import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
