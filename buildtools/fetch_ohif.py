"""Fetch the OHIF viewer's npm package and unpack its built pages: `python fetch_ohif.py FOLDER`.

npm itself downloads the package from the registry it is configured for and compares it with the registry's
checksum; here it is compared once more with the checksum that this file was written with, so that the same
bytes are served everywhere. Nothing of the package is executed.

The package's pages are built for the root of a site. Ours stand below /ohif/, so the addresses in the page,
in the style sheets and in the scripts that load further ones are moved there.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

PACKAGE = "@ohif/app@3.13.2"
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
PAGES = PurePosixPath("package/dist")
# 156 of its 204 MB, for tools that load further models or pages from the internet: not part of our modes.
LEFT_OUT = {"ort", "dicom-microscopy-viewer"}
MOUNT = "/ohif/"
STAMP = ".ugmcl-version"
"""A file in the folder that says what it holds; written last."""
HELD = f"{PACKAGE} at {MOUNT}"

_MOVES: dict[str, list[tuple[re.Pattern[str], str]]] = {
    ".html": [
        (re.compile(r"""((?:href|src|content)=")/(?!/)"""), rf"\g<1>{MOUNT}"),
        (re.compile(r'window\.PUBLIC_URL="/"'), f'window.PUBLIC_URL="{MOUNT}"'),
        # Modules and workers are found relative to the page, whose address has several parts on some routes.
        (re.compile("<head>"), f'<head><base href="{MOUNT}">'),
    ],
    ".css": [(re.compile(r"url\(/(?!/)"), f"url({MOUNT}")],
    ".js": [(re.compile(r'__webpack_require__\.p = "/";'), f'__webpack_require__.p = "{MOUNT}";')],
}


def is_there(folder: Path) -> bool:
    """Whether the folder holds this very package, completely."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == HELD


def download(folder: Path) -> Path:
    """Let npm fetch the package into `folder`; its checksum is right when this returns."""
    command = ["npm", "pack", PACKAGE, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("npm was not found. Debian: apt install npm (or nodejs from its maker).") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise SystemExit(f"npm could not fetch {PACKAGE}: {done.stderr.strip()[-800:] or 'no reason given'}")
    found = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
    if found != SHA512:
        raise SystemExit(f"npm fetched {PACKAGE} with the checksum {found}, not {SHA512}: it is not used.")
    return archives[0]


def unpack(archive: Path, folder: Path) -> None:
    """Write the built pages of the package into an empty `folder`: plain files only, none outside it."""
    with tarfile.open(archive) as package:
        for member in package:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(PAGES) or ".." in path.parts:
                continue
            inside = path.relative_to(PAGES)
            content = package.extractfile(member)
            if inside.parts[0] in LEFT_OUT or content is None:
                continue
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(moved(inside.suffix, content.read()))


def moved(suffix: str, content: bytes) -> bytes:
    """A file of the pages with its addresses below `MOUNT`."""
    if suffix not in _MOVES:
        return content
    text = content.decode("utf-8")
    for pattern, replacement in _MOVES[suffix]:
        text = pattern.sub(replacement, text)
    return text.encode("utf-8")


def fetch(folder: Path) -> None:
    """Make `folder` hold the package; a folder that already does is left alone."""
    if is_there(folder):
        print(f"{PACKAGE} is in {folder}.")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ohif-") as temporary:
        pages = Path(temporary) / "pages"
        pages.mkdir()
        unpack(download(Path(temporary)), pages)
        if not (pages / "index.html").is_file():
            raise SystemExit(f"{PACKAGE} holds no built pages; it is not used.")
        (pages / STAMP).write_text(HELD, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        pages.replace(folder)
    print(f"{PACKAGE} is in {folder}. Restart the server to serve it at /ohif/.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    fetch(Path(sys.argv[1]))
