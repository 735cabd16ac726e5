"""What a program saw in Slicer's scene, written down for the test that started it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer.util


def ijk_array(volume: Any) -> np.ndarray:
    """Voxels `(I, J, K)` of a volume node, by Slicer's own function."""
    return slicer.util.arrayFromVolume(volume).transpose(2, 1, 0).copy()


def ijk_to_ras(volume: Any) -> np.ndarray:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def segment_array(segmentation: Any, name: str, volume: Any) -> np.ndarray:
    """Where a segment is on a volume's grid `(I, J, K)`, by Slicer's own function."""
    segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume).transpose(2, 1, 0).copy()


def draw(segmentation: Any, name: str, volume: Any, inside: np.ndarray) -> None:
    """What a reader does with a brush: a segment is where `inside` `(I, J, K)` is."""
    segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        inside.astype(np.uint8).transpose(2, 1, 0), segmentation, segment, volume
    )


def segment_names(segmentation: Any) -> list[str]:
    inner = segmentation.GetSegmentation()
    return [inner.GetNthSegment(n).GetName() for n in range(inner.GetNumberOfSegments())]


def write_facts(folder: Path, case: str, **arrays: np.ndarray) -> None:
    np.savez_compressed(folder / f"{case}.npz", **arrays)
