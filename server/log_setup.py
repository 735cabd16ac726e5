"""What the server logs, and where: terminal and `<workspace>/logs/server.log`, without names or bodies."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
from pathlib import Path
from types import TracebackType
from typing import Any

from server.request_log import places

LOG_BYTES = 5 * 2**20

# The stock host logs requests, params, file names and results at INFO and WARNING; image ids may be names.
_QUIET = ("monailabel", "filelock", "matplotlib", "PIL", "httpx", "urllib3", "multipart", "python_multipart")


class NamelessFormatter(logging.Formatter):
    """Writes an exception as its type and lines of code: its message may hold a path, so a patient's name."""

    def formatException(  # noqa: N802 - the base class's name
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        return "" if ei[1] is None else places(ei[1])


def log_file() -> Path | None:
    """The log file in use, or None when the log goes only to the terminal."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.handlers.RotatingFileHandler):
            return Path(handler.baseFilename)
    return None


def log_config(folder: Path | None, level: str = "INFO") -> dict[str, Any]:
    """A `logging.config.dictConfig` for the whole process, uvicorn included.

    Args:
        folder: Where `server.log` goes; None leaves the file out.
        level: Lowest level of our own lines.
    """
    handlers: dict[str, Any] = {
        "terminal": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}
    }
    if folder is not None:
        handlers["file"] = {
            "class": "logging.handlers.RotatingFileHandler",
            "formatter": "line",
            "filename": str(folder / "server.log"),
            "maxBytes": LOG_BYTES,
            "backupCount": 3,
            "encoding": "utf-8",
            "delay": True,
        }
    loggers: dict[str, Any] = {name: {"level": "ERROR"} for name in _QUIET}
    loggers |= {name: {"level": level} for name in ("server", "lib", "ugmcl", "main")}
    loggers |= {"uvicorn": {"level": "INFO"}, "uvicorn.access": {"level": "WARNING"}}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"()": NamelessFormatter, "fmt": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
        },
        "handlers": handlers,
        "root": {"level": "WARNING", "handlers": list(handlers)},
        "loggers": loggers,
    }


def set_up(folder: Path | None, level: str = "INFO") -> None:
    """Start logging; makes `folder` if needed."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    logging.config.dictConfig(log_config(folder, level))
