"""A project on a PACS without the host: its datastore and its exchange, driven by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.datastore import FolderDatastore
from lib.dicom.segmentation_writing import write_segmentation
from lib.dicom.series import read_grid
from lib.dicom.structures import StructureMap
from lib.pacs.project import PacsProject
from lib.settings import AppSettings
from lib.volumes import encode
from lib.workspace import Workspace
from tests.dicom.phantom_series import StackPlan, phantom_series

LABELS = "spleen,sore spot"
STRUCTURES = StructureMap.of({"spleen": 1, "sore spot": 2})


class PacsProjectInTest:
    """One start of a project; `reopen` is the next one."""

    def __init__(self, url: str, folder: Path, **conf: Any) -> None:
        self.url, self.folder, self.conf = url, folder, conf
        self.workspace = Workspace(folder)
        given = {"labels": LABELS, "pacs_poll_s": "0.1", **{key: str(value) for key, value in conf.items()}}
        self.settings = AppSettings.from_conf(given)
        self.pacs = PacsProject(url, self.workspace, self.settings)
        self.store = FolderDatastore(self.pacs.source, self.workspace, self.settings.labels_map)
        self.pacs.source.web.connection._sleep = lambda seconds: None
        self.pacs.attach(self.store)

    def look(self, voxels_s: float = 20.0) -> None:
        """What the background does in a while."""
        self.pacs.source.expire()
        self.store.refresh(voxels_s)
        self.store.refresh()

    def turn(self) -> None:
        """A look, and a turn of the exchange."""
        self.look()
        self.pacs.exchange.work()

    def close(self) -> None:
        self.pacs.stop()
        self.workspace.database.close()

    def reopen(self) -> PacsProjectInTest:
        self.close()
        return PacsProjectInTest(self.url, self.folder, **self.conf)

    def label(self, case_id: str, seed: int = 0) -> tuple[NDArray[np.uint8], bytes]:
        """Scattered voxels of both classes on a case's grid, and their file."""
        grid = self.pacs.source.grid(case_id)
        array = np.random.default_rng(seed).choice(3, grid.shape, p=(0.8, 0.1, 0.1)).astype(np.uint8)
        return array, encode(array, grid.affine, "label.nii.gz")

    def submit(self, case_id: str, seed: int = 0, **params: Any) -> NDArray[np.uint8]:
        """Save a label as a client does."""
        array, content = self.label(case_id, seed)
        file = self.folder / "submitted.nii.gz"
        file.write_bytes(content)
        meaning = [{"name": "spleen", "idx": 1}, {"name": "sore spot", "idx": 2}]
        self.store.save_label(case_id, str(file), "final", {"label_info": meaning, **params})
        return array


def phantom(seed: int = 0, plan: StackPlan | None = None) -> list[Dataset]:
    """A series with noise over the landmark values, so that it is no constant in any plan."""
    return phantom_series(plan or StackPlan(), coordinate=seed % 3)


def uid_of(instances: list[Dataset]) -> str:
    return str(instances[0].SeriesInstanceUID)


def expert_seg(instances: list[Dataset], maker: Any, seed: int = 0) -> tuple[NDArray[np.uint8], Dataset]:
    """What another workstation stores: a SEG of a series, and its label."""
    grid = read_grid(instances)
    array = np.random.default_rng(seed).choice(3, grid.shape, p=(0.8, 0.1, 0.1)).astype(np.uint8)
    content = write_segmentation(array, grid, STRUCTURES, maker)
    return array, pydicom.dcmread(io.BytesIO(content))
