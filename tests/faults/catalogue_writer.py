"""A process that saves labels straight into the catalogue until it is killed.

`python -m tests.faults.catalogue_writer STUDIES WORKSPACE CASE=PATH ...`: opens the project, prints `open`,
and saves the labels; `attempt CASE SHA` and `ack CASE SHA` frame each.
"""

from __future__ import annotations

import sys

from lib.catalogue.label_store import LabelStore
from lib.datastore import FolderDatastore
from lib.workspace import Workspace


def main() -> None:
    """Save the labels; every line is out before the next step."""
    studies, workspace, *labels = sys.argv[1:]
    store = FolderDatastore(studies, Workspace.of(studies, workspace), {"foreground": 1})
    print("open", flush=True)
    for label in labels:
        case, path = label.split("=", 1)
        with open(path, "rb") as file:
            digest = LabelStore.digest(file.read())
        print(f"attempt {case} {digest}", flush=True)
        store.save_label(case, path, "final", {"client_id": "writer"})
        print(f"ack {case} {digest}", flush=True)


if __name__ == "__main__":
    main()
