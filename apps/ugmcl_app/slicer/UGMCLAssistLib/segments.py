"""Labels between files, which have values, and a segmentation node, which has named segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray

from .errors import AssistError
from .voxels import array_of, ijk_to_ras, put_array

GRID_TOLERANCE_MM = 1e-3
"""As the server's: two grids are one when no corner lies further apart."""
COLORS = [
    (0.0, 0.62, 0.45),
    (0.34, 0.71, 0.91),
    (0.90, 0.62, 0.0),
    (0.80, 0.47, 0.65),
    (0.0, 0.45, 0.70),
    (0.84, 0.37, 0.0),
    (0.94, 0.89, 0.26),
]
"""Of the segments, in the order of the classes: the colors of Okabe and Ito (2008), told apart by color-blind
readers; black, which does not show on a scan, is left out."""


class Segments:
    """Brings labels into segmentation nodes and out of them.

    Args:
        scene: The `vtkMRMLScene`.
        logic: Its `vtkSlicerSegmentationsModuleLogic`.
    """

    def __init__(self, scene: Any, logic: Any) -> None:
        self._scene, self._logic = scene, logic

    def new_node(self, volume: Any, name: str) -> Any:
        """An empty segmentation on the grid of a volume."""
        node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        return node

    def replace(self, node: Any, volume: Any, labelmap: Any, names: dict[str, int]) -> None:
        """Draw the classes of a label map as segments; those of the same names go, others stay.

        Args:
            node: The segmentation node.
            volume: The scan's node.
            labelmap: A `vtkMRMLLabelMapVolumeNode` on the scan's grid; its voxels are changed.
            names: The label's value of each class.

        Raises:
            AssistError: If the label map is on another grid, or has a value that no class has.
        """
        require_one_grid(labelmap, volume)
        voxels = array_of(labelmap)
        values = set(map(int, np.unique(voxels)))
        unknown = values - {0, *names.values()}
        if unknown:
            raise AssistError(f"The segmentation has the values {sorted(unknown)}, which no class has.")
        segmentation = node.GetSegmentation()
        present, numbered = vtk.vtkStringArray(), np.zeros(voxels.shape, np.uint16)
        for number, (name, value) in enumerate(sorted(names.items(), key=lambda item: item[1])):
            found = segmentation.GetSegmentIdBySegmentName(name)
            color = segmentation.GetSegment(found).GetColor() if found else COLORS[number % len(COLORS)]
            if found:
                segmentation.RemoveSegment(found)
            added = segmentation.AddEmptySegment(name, name, color)
            # Slicer gives the first named segment the value 1, and so on: classes that are not there, and
            # values with gaps, must be closed up first, or a class would get another one's voxels.
            if value in values:
                present.InsertNextValue(added)
                numbered[voxels == value] = present.GetNumberOfValues()
        if present.GetNumberOfValues():
            put_array(labelmap, numbered, volume)
            if not self._logic.ImportLabelmapToSegmentationNode(labelmap, node, present):
                raise AssistError("Slicer could not import the segmentation; its log says why.")

    def is_empty(self, node: Any, volume: Any) -> bool:
        """Whether no segment has a voxel on the scan's grid."""
        return not any(self._binary(node, segment, volume).any() for segment in self._ids(node))

    def fingerprint(self, node: Any) -> list[tuple[str, int]]:
        """Each segment with the time of the last change of its voxels: equal while nobody draws."""
        segmentation, found = node.GetSegmentation(), []
        for segment in self._ids(node):
            voxels = segmentation.GetSegment(segment).GetRepresentation("Binary labelmap")
            found.append((segment, int(voxels.GetMTime()) if voxels is not None else 0))
        return found

    def export(self, node: Any, volume: Any, path: Path) -> list[dict[str, Any]]:
        """Write all segments as one label file on the scan's grid; without any, it is empty.

        Args:
            node: The segmentation node.
            volume: The scan's node.
            path: The `.nrrd` file to write.

        Returns:
            What each value means, `[{"name", "idx"}]`.

        Raises:
            AssistError: If segments overlap.
        """
        segments = self._ids(node)
        names = [node.GetSegmentation().GetSegment(segment).GetName() for segment in segments]
        merged = np.zeros(array_of(volume).shape, np.uint8 if len(segments) < 256 else np.uint16)
        for number, segment in enumerate(segments, start=1):
            inside = self._binary(node, segment, volume)
            other = int(merged[inside].max()) if inside.any() else 0
            if other:
                raise AssistError(
                    f"The segments {names[other - 1]} and {names[number - 1]} overlap, and a voxel can have "
                    "one class only: correct one of them, with 'Modify other segments: Overwrite all' in the "
                    "editor."
                )
            merged[inside] = number
        self._write(merged, volume, path)
        return [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]

    def _ids(self, node: Any) -> list[str]:
        segmentation = node.GetSegmentation()
        return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]

    def _binary(self, node: Any, segment: str, volume: Any) -> NDArray[Any]:
        """Where a segment is, on the scan's grid."""
        chosen = vtk.vtkStringArray()
        chosen.InsertNextValue(segment)
        labelmap = self._scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        try:
            if not self._logic.ExportSegmentsToLabelmapNode(node, chosen, labelmap, volume):
                name = node.GetSegmentation().GetSegment(segment).GetName()
                raise AssistError(f"Slicer could not export the segment {name}; its log says why.")
            require_one_grid(labelmap, volume)
            return array_of(labelmap) > 0
        finally:
            self._scene.RemoveNode(labelmap)

    def _write(self, array: NDArray[Any], volume: Any, path: Path) -> None:
        labelmap = self._scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        storage = self._scene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")
        try:
            put_array(labelmap, array, volume)
            storage.SetFileName(str(path))
            storage.SetUseCompression(1)
            if not storage.WriteData(labelmap):
                raise AssistError(f"Slicer could not write the label to {path}; is the disk full?")
        finally:
            self._scene.RemoveNode(storage)
            self._scene.RemoveNode(labelmap)


def require_one_grid(one: Any, other: Any) -> None:
    """Raise AssistError unless two volume nodes have the same voxels at the same millimeter."""
    shape = array_of(other).shape
    gap = np.inf
    if array_of(one).shape == shape:
        corners = np.array(np.meshgrid(*[(0, length - 1) for length in shape])).reshape(3, -1)
        moved = ijk_to_ras(one) - ijk_to_ras(other)
        gap = float(np.linalg.norm(moved[:3, :3] @ corners + moved[:3, 3:], axis=0).max())
    if gap > GRID_TOLERANCE_MM:
        raise AssistError(
            f"{one.GetName() or 'A label'} is not on the grid of {other.GetName()}: the scan may have been "
            "replaced since; open the case again."
        )
