"""A nursery of processes that save labels straight into the catalogue, each until it is killed.

`python -m tests.faults.catalogue_writer STUDIES WORKSPACE DATABASE`: for each line on stdin, a JSON object
`{"labels": [[case, path], ...]}`, a child is forked, which opens the project anew, prints `open`, and saves
the labels; `attempt CASE SHA` and `ack CASE SHA` frame each. The parent prints `child PID`, and `ended CODE`
when it is gone.
"""

from __future__ import annotations

import json
import os
import sys

from lib.catalogue.label_store import LabelStore
from lib.datastore import FolderDatastore
from lib.workspace import Workspace


def write(studies: str, workspace: str, url: str, labels: list[list[str]]) -> None:
    """Save the labels; every line is out before the next step."""
    store = FolderDatastore(studies, Workspace.of(studies, workspace or None, url), {"foreground": 1})
    print("open", flush=True)
    for case, path in labels:
        with open(path, "rb") as file:
            digest = LabelStore.digest(file.read())
        print(f"attempt {case} {digest}", flush=True)
        store.save_label(case, path, "final", {"client_id": "writer"})
        print(f"ack {case} {digest}", flush=True)


def main() -> None:
    """Serve orders until stdin ends."""
    studies, workspace, url = sys.argv[1:4]
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                write(studies, workspace, url, json.loads(line)["labels"])
            finally:
                os._exit(0)
        print(f"child {child}", flush=True)
        status = os.waitpid(child, 0)[1]
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
