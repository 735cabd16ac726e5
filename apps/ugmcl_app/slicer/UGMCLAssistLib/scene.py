"""One case in Slicer's scene: scan, segmentation, uncertainty, and where the views look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .color_map import color_node
from .errors import AssistError
from .segments import Segments, require_one_grid
from .slice_order import Place, center_of_doubt
from .voxels import array_of, ijk_to_ras

SCAN, LABEL_MAP = 0, 1  # bits of the loading options of vtkSlicerVolumesLogic
EDITOR = "SegmentEditor"
"""The tag of the node that Slicer's own Segment Editor keeps its choices in."""


class CaseScene:
    """Shows one case at a time; nodes that are not of that case are left alone.

    Args:
        scene: The `vtkMRMLScene`.
        volumes_logic: Its `vtkSlicerVolumesLogic`.
        segmentations_logic: Its `vtkSlicerSegmentationsModuleLogic`.
    """

    def __init__(self, scene: Any, volumes_logic: Any, segmentations_logic: Any) -> None:
        self._scene, self._volumes = scene, volumes_logic
        self.segments = Segments(scene, segmentations_logic)
        self._image: Any = None
        self._segmentation: Any = None
        self._uncertainty: Any = None
        self._drawn: Any = None

    @property
    def image(self) -> Any:
        """The scan's `vtkMRMLScalarVolumeNode`.

        Raises:
            AssistError: If no case is open, or its scan was removed from the scene.
        """
        return self._present(self._image, "No case is open: press 'Next most uncertain'.")

    @property
    def segmentation(self) -> Any:
        """The `vtkMRMLSegmentationNode`; raises AssistError as `image` does."""
        return self._present(
            self._segmentation, "The segmentation is gone from the scene; open the case again."
        )

    @property
    def uncertainty(self) -> Any:
        """The map's `vtkMRMLScalarVolumeNode`; raises AssistError while there is none."""
        return self._present(self._uncertainty, "There is no uncertainty yet: press 'Segment'.")

    def open(self, path: Path, name: str) -> None:
        """Show the scan of a file as the case `name`, in place of the last case."""
        image = self._load(path, name, SCAN)
        self.close()
        self._image = image
        self._segmentation = self.segments.new_node(image, f"{name} segmentation")
        self._drawn = self.segments.fingerprint(self._segmentation)
        self._point_editor()
        for layers in self._all("vtkMRMLSliceCompositeNode"):
            layers.SetBackgroundVolumeID(image.GetID())
            layers.SetForegroundVolumeID(None)
            layers.SetLabelVolumeID(None)
        for view in self._all("vtkMRMLSliceNode"):
            # Slices of voxels, not between them, on oblique scans too.
            view.RotateToVolumePlane(image)
        self.look_at(ijk_to_ras(image) @ [*(n // 2 for n in array_of(image).shape), 1.0])

    def close(self) -> None:
        """Take the case out of the scene."""
        for node in (self._uncertainty, self._segmentation, self._image):
            if node is not None and node.GetScene() is not None:
                self._scene.RemoveNode(node)
        self._image = self._segmentation = self._uncertainty = None

    def show_segmentation(self, path: Path, names: dict[str, int]) -> None:
        """Draw a label file as segments; `names` has each class's value."""
        labelmap = self._load(path, "segmentation", LABEL_MAP)
        try:
            self.segments.replace(self.segmentation, self.image, labelmap, names)
        finally:
            self._scene.RemoveNode(labelmap)
        self._drawn = self.segments.fingerprint(self._segmentation)

    def has_edits(self) -> bool:
        """Whether the reader changed the segmentation since it was drawn or submitted."""
        node = self._segmentation
        here = node is not None and node.GetScene() is not None
        return here and self.segments.fingerprint(node) != self._drawn

    def take_as_submitted(self) -> None:
        """What is drawn now is no unsaved work any more."""
        self._drawn = self.segments.fingerprint(self._segmentation)

    def show_uncertainty(self, path: Path, threshold: float, opacity: float) -> None:
        """Lay a map, float in [0, 1], over the scan in all slice views."""
        volume = self._load(path, f"{self.image.GetName()} uncertainty", SCAN)
        try:
            require_one_grid(volume, self.image)
        except AssistError:
            self._scene.RemoveNode(volume)
            raise
        if self._uncertainty is not None and self._uncertainty.GetScene() is not None:
            self._scene.RemoveNode(self._uncertainty)
        self._uncertainty = volume
        display = volume.GetDisplayNode()
        display.SetAndObserveColorNodeID(color_node(self._scene).GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0.0, 1.0)  # the same color means the same in every case
        for layers in self._all("vtkMRMLSliceCompositeNode"):
            layers.SetForegroundVolumeID(volume.GetID())
        self.set_threshold(threshold)
        self.set_opacity(opacity)

    def set_threshold(self, threshold: float) -> None:
        """Hide the uncertainty below a value in [0, 1]."""
        display = self.uncertainty.GetDisplayNode()
        display.AutoThresholdOff()
        display.SetThreshold(float(threshold), 1.0)
        display.ApplyThresholdOn()

    def set_opacity(self, opacity: float) -> None:
        """How much the uncertainty covers the scan, in [0, 1]."""
        for layers in self._all("vtkMRMLSliceCompositeNode"):
            if layers.GetForegroundVolumeID() == self.uncertainty.GetID():
                layers.SetForegroundOpacity(float(opacity))

    def jump_to(self, place: Place) -> None:
        """Bring all slice views to where a slice is least sure."""
        index = center_of_doubt(array_of(self.uncertainty), place)
        self.look_at(ijk_to_ras(self.uncertainty) @ [*index, 1.0])

    def look_at(self, ras: NDArray[Any]) -> None:
        """Move the slices of all views to a point `(R, A, S)` in mm, and the crosshair there."""
        right, anterior, superior = (float(value) for value in ras[:3])
        for view in self._all("vtkMRMLSliceNode"):
            view.JumpSliceByOffsetting(right, anterior, superior)
        for crosshair in self._all("vtkMRMLCrosshairNode"):
            crosshair.SetCrosshairRAS(right, anterior, superior)

    def editor_node(self) -> Any:
        """The node of Slicer's Segment Editor, made if there is none yet."""
        node = self._scene.GetSingletonNode(EDITOR, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = self._scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag(EDITOR)
            node = self._scene.AddNode(node)
        return node

    def _point_editor(self) -> None:
        node = self.editor_node()
        node.SetAndObserveSegmentationNode(self._segmentation)
        node.SetAndObserveSourceVolumeNode(self._image)

    def _load(self, path: Path, name: str, options: int) -> Any:
        node = self._volumes.AddArchetypeVolume(str(path), name, options)
        if node is None:
            raise AssistError(
                f"Slicer cannot read the file of {name} that the server sent; its log says why."
            )
        storage = node.GetStorageNode()
        if storage is not None:  # the file is a temporary one: saving the scene asks for a place instead
            self._scene.RemoveNode(storage)
        return node

    def _present(self, node: Any, otherwise: str) -> Any:
        if node is None or node.GetScene() is None:
            raise AssistError(otherwise)
        return node

    def _all(self, class_name: str) -> list[Any]:
        return [
            self._scene.GetNthNodeByClass(n, class_name)
            for n in range(self._scene.GetNumberOfNodesByClass(class_name))
        ]
