"""The server's phantoms (a bright ball in noise) as DICOM series, and their labels, on an oblique grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid

from tests.dicom.phantom_series import StackPlan, as_file, header, oblique_directions
from tests.server.conftest import SHAPE, phantom

PLAN = StackPlan(
    orientation=tuple(oblique_directions(12, -8, 20)),
    spacing=(1.5, 1.5, 2.0),
    shape=(SHAPE[0], SHAPE[1], SHAPE[2]),
)


def ball_series(seed: int) -> tuple[list[Dataset], NDArray[np.uint8]]:
    """The instances of one series, and its label `(columns, rows, slices)`."""
    image, label, _ = phantom(seed)
    plan = replace(PLAN)
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    instances = []
    for number in range(plan.shape[2]):
        dataset = header(plan, uids)
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
        dataset.InstanceNumber = number + 1
        dataset.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in plan.orientation]
        dataset.ImagePositionPatient = [f"{v:.9g}" for v in plan.world(np.array([0.0, 0.0, number]))]
        dataset.PixelSpacing = [plan.spacing[1], plan.spacing[0]]
        dataset.SliceThickness = plan.spacing[2]
        dataset.PixelData = np.round(image[:, :, number].T).astype("<i2").tobytes()
        instances.append(as_file(dataset))
    return instances, label
