"""`ugmcl-assist export`: the labels of a project as a data set in a folder, without a server."""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
from pathlib import Path

from server.offline import load_app
from server.settings import ServerSettings
from server.stock_host import StartError, check_folders, check_not_in_use, configure

ABOUT = """\
Write the labels of a project, with their images and history, into a new folder: `images/`, `labels/`,
`dataset.json` (as of the Medical Segmentation Decathlon, with who labeled what) and `history.csv`; or, with
--layout monailabel, a folder that the stock MONAI Label server opens. A server may run meanwhile."""


def add_arguments(options: argparse.ArgumentParser) -> None:
    """What can be chosen, beside the project."""
    options.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    options.add_argument(
        "--layout", choices=("folder", "monailabel"), default="folder", help="see above (default: folder)"
    )
    options.add_argument(
        "--images",
        choices=("copy", "reference", "none"),
        default="copy",
        help="copy the scans, name their paths in dataset.json, or leave them out (default: copy)",
    )
    options.add_argument(
        "--case", action="append", metavar="ID", help="only this case; can be repeated (default: all labeled)"
    )
    options.add_argument("--unlabeled", action="store_true", help="also cases without a label, as images")
    options.add_argument("--originals", action="store_true", help="also the models' proposals that are kept")
    options.add_argument("--maps", action="store_true", help="also the uncertainty maps that are kept")


def export(settings: ServerSettings, options: argparse.Namespace) -> int:
    """Run one export and move it to where it is wanted.

    Returns:
        0 when it is there, 1 when the export failed.

    Raises:
        StartError: a folder cannot be used, or there is nothing to export as asked.
    """
    target = options.out.expanduser().resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise StartError(f"{target} is there already; give the name of a new folder with --out.")
    studies, workspace = check_folders(settings)
    check_not_in_use(workspace)
    configure(settings, studies, workspace)
    app = load_app()
    asked = {key: getattr(options, key) for key in ("layout", "images", "unlabeled", "originals", "maps")}
    try:
        done = app.exports.run_now({**asked, "cases": options.case})
    except Exception as error:
        raise StartError(str(getattr(error, "detail", error))) from None
    if done["status"] != "done":
        print(f"The export was not completed. {done['reason']}", file=sys.stderr)
        return 1
    try:
        _move(Path(done["folder"]), target)
    except OSError as error:
        raise StartError(
            f"The export is complete, but cannot be moved to {target} ({error.strerror}); it is in "
            f"{done['folder']}."
        ) from None
    left_out = done["progress"].get("left_out", 0)
    print(f"Cases in {target}: {done['progress']['cases'] - left_out}.", done["reason"])
    return 0


def _move(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        target.rmdir()
    try:
        folder.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    # Another disk: whole under its name, or not at all.
    growing = target.with_name(f".{target.name}.{folder.name}")
    try:
        shutil.copytree(folder, growing)
        growing.rename(target)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
