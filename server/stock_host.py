"""How the stock MONAI Label host is told what to serve, before it loads the app."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from server.settings import ServerSettings

# Read by the host's own subprocesses (batch inference), which start from the environment alone.
_EXPORTED = (
    "MONAI_LABEL_APP_DIR",
    "MONAI_LABEL_STUDIES",
    "MONAI_LABEL_APP_CONF",
    "MONAI_LABEL_SERVER_PORT",
    "MONAI_LABEL_AUTO_UPDATE_SCORING",
    "MONAI_LABEL_SESSION_PATH",
)


class StartError(RuntimeError):
    """The server cannot start as asked; the message is a sentence for the person who started it."""


def app_folder() -> Path:
    """The app's folder: the one beside the installed `ugmcl` package, or the checkout's.

    Raises:
        StartError: neither holds the app.
    """
    found = importlib.util.find_spec("ugmcl")
    places = [Path(found.origin).resolve().parents[1]] if found and found.origin else []
    places.append(Path(__file__).resolve().parents[1] / "apps" / "ugmcl_app")
    for place in places:
        if (place / "main.py").is_file():
            return place
    raise StartError(
        f"The app was not found in {places[-1]}. Run from a checkout: `make setup`, then `make serve`."
    )


def check_folders(settings: ServerSettings) -> tuple[Path | str, Path]:
    """Return the studies, a folder or a PACS's address, and the workspace, which is made if needed.

    Raises:
        StartError: a folder is missing or cannot be written.
    """
    if settings.studies is None:
        raise StartError("No scans were given; name their folder with --studies DIR.")
    studies = settings.studies
    if isinstance(studies, Path):
        studies = _checked_folder(studies.expanduser().resolve())
    workspace = settings.workspace_folder()
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe = workspace / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"The workspace {workspace} cannot be written ({error.strerror}); give one with --workspace DIR."
        ) from None
    return studies, workspace


def _checked_folder(studies: Path) -> Path:
    if not studies.is_dir():
        raise StartError(
            f"The studies folder {studies} does not exist; give the folder that holds your scans."
        )
    if not os.access(studies, os.R_OK | os.X_OK):
        raise StartError(f"The studies folder {studies} cannot be read; change its permissions.")
    if not os.access(studies, os.W_OK):
        raise StartError(
            f"The studies folder {studies} cannot be written, but labels go there; change its permissions."
        )
    return studies


def check_not_in_use(workspace: Path) -> None:
    """Refuse a project that a server of an earlier version has open: it holds a lock on `rounds.lock`.

    Processes of this version share a project. An earlier one keeps rounds and models in files of its own.

    Raises:
        StartError: a server or a `train` command of an earlier version has this workspace open.
    """
    import fcntl

    path = workspace / "rounds.lock"
    if not path.exists():
        return
    try:
        with path.open("a") as file:
            # lockf belongs to the process and is gone with the file object; the app takes its own afterwards.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StartError(
            f"An earlier version of this program is working on the project in {workspace}. Stop it first "
            "(Ctrl-C in its terminal); this version then goes on with its rounds and models."
        ) from None


def configure(settings: ServerSettings, studies: Path | str, workspace: Path) -> Path:
    """Set the host's own settings for this project and return the app's folder.

    The stock `start_server` does this from its command line; unlike it, nothing is made in the app's folder.

    Raises:
        StartError: the app is missing, or the host's authentication was switched on.
    """
    app = app_folder()
    from monailabel.config import settings as host

    if host.MONAI_LABEL_AUTH_ENABLE:
        raise StartError(
            "MONAI_LABEL_AUTH_ENABLE is set, but this server has no authentication yet and would be open. "
            "Unset it, and protect the server by its address or a proxy."
        )
    host.MONAI_LABEL_APP_DIR = str(app)
    host.MONAI_LABEL_STUDIES = str(studies)
    host.MONAI_LABEL_APP_CONF = settings.app_conf()
    if isinstance(studies, str):  # the app's own default lies inside a folder of studies
        host.MONAI_LABEL_APP_CONF["workspace"] = str(workspace)
    host.MONAI_LABEL_SERVER_PORT = settings.port
    # The stock scoring job after every request; our scores come from the app's own queue.
    host.MONAI_LABEL_AUTO_UPDATE_SCORING = False
    host.MONAI_LABEL_SESSION_PATH = str(workspace / "sessions")
    for name in _EXPORTED:
        value = getattr(host, name)
        os.environ[name] = json.dumps(value) if isinstance(value, dict) else str(value)
    known = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if str(app) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(app), *known])
    return app
