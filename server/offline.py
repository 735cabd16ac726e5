"""Work without a server: one round on a folder (`train`), and a model on a folder of scans (`predict`)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.settings import ServerSettings
from server.stock_host import StartError, app_folder, check_folders, check_not_in_use, configure

Say = Callable[[str], None]


def train_once(settings: ServerSettings, say: Say) -> int:
    """Run one round on a studies folder and tell how it went.

    Args:
        settings: Studies, workspace, labels and the app's settings.
        say: Takes a line at a time.

    Returns:
        0 when the round ended with a model, 1 when it failed.

    Raises:
        StartError: a folder is unusable, a server has the project, or there is nothing to learn from.
    """
    studies, workspace = check_folders(settings)
    check_not_in_use(workspace)
    configure(settings, studies, workspace)
    say("Loading the app ...")
    app = load_app()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(app.rounds, ended, say), daemon=True)
    watcher.start()
    try:
        done = app.rounds.run_now().public()
    except Exception as error:
        raise StartError(str(getattr(error, "detail", error))) from None
    finally:
        ended.set()
        watcher.join()
    return _report(done, say)


def load_app() -> Any:
    """Load the app in this process.

    Raises:
        StartError: the app refused its settings.
    """
    from server.running_app import running_app

    try:
        return running_app()
    except (ValueError, RuntimeError) as error:
        raise StartError(str(error)) from None


def _watch(rounds: Any, ended: threading.Event, say: Say) -> None:
    shown = -1
    while not ended.wait(1.0):
        current = rounds.current()
        progress = current.public()["progress"] if current is not None else None
        if progress and progress["steps"] and progress["step"] != shown:
            shown = progress["step"]
            left = progress["eta_s"]
            say(f"step {shown} of {progress['steps']}" + (f", {left:.0f} s left" if left is not None else ""))


def _report(done: dict[str, Any], say: Say) -> int:
    say(f"Round {done['id']}: {done['status']} after {done['duration_s'] or 0:.0f} s. {done['reason']}")
    for name, values in (done["metrics"] or {}).items():
        if values:
            hd95 = values.get("hd95_mm")
            say(
                f"  {name}: Dice {values['dice']:.3f}" + (f", 95HD {hd95:.1f} mm" if hd95 is not None else "")
            )
    if done["model_version"]:
        state = "published" if done["promoted"] else "kept, not published"
        say(f"  model {done['model_version']} ({state}), from {done['labeled']} labels")
    return 0 if done["status"] == "done" else 1


def predict_folder(
    model: str, source: Path, target: Path, workspace: Path | None, device: str, mc_samples: int
) -> int:
    """Segment every scan of `source` into `target`, in a process that needs no server.

    Args:
        model: A checkpoint file, or a version of the project in `workspace`.
        source: Folder of scans.
        target: Folder for `<id>.nii.gz` and `<id>_uncertainty.nii.gz`; made if needed.
        workspace: Where a version is looked up; None where `model` is a file.
        device: `auto`, `cpu` or `cuda`.
        mc_samples: Monte Carlo passes for the uncertainty.

    Returns:
        The worker's exit status: 0 when every scan was segmented.

    Raises:
        StartError: the model or a folder is not there, or the results would replace the scans.
    """
    if not source.is_dir():
        raise StartError(
            f"The input folder {source} does not exist; give a folder of .nii.gz, .nii or .nrrd files."
        )
    if target.resolve() == source.resolve():
        raise StartError(
            f"The results are named like the scans, so they would replace those in {source}; "
            "give another folder with --output."
        )
    file = model_file(model, workspace)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"The output folder {target} cannot be made: {error.strerror}.") from None
    command = [sys.executable, "-m", "lib.worker", "predict"]
    command += ["--model", str(file), "--input", str(source.resolve()), "--output", str(target.resolve())]
    command += ["--device", device, "--mc-samples", str(mc_samples)]
    # The app folder comes first: `lib` must be the app's, whatever else is installed under that name.
    path = os.pathsep.join([str(app_folder()), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def model_file(model: str, workspace: Path | None) -> Path:
    """The checkpoint file that `model` names: itself a file, or a version kept in `workspace`.

    Raises:
        StartError: it is neither; the sentence lists the versions there are.
    """
    given = Path(model).expanduser()
    if given.is_file():
        return given.resolve()
    if workspace is None:
        raise StartError(f"There is no model file {model}. To name a version instead, add --studies DIR.")
    folder = workspace / "models"
    versions = (
        {path.parent.name: path for path in sorted(folder.glob("*/model.pt"))} if folder.is_dir() else {}
    )
    if model not in versions:
        kept = ", ".join(versions) or "none yet"
        raise StartError(f"There is no model '{model}' in {workspace}; versions kept there: {kept}.")
    return versions[model].resolve()
