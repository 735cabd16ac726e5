"""What a scripted module finds in 3D Slicer, on slicer-core: the real scene, and stand-ins for the rest.

Real: MRML scene and nodes, volumes and segmentations logic, `slicer.util` where it needs no window, files
read and written. Stand-ins: the application object, dialogs, settings, the loading of modules, `sitkUtils`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import slicer
import slicer.util
import vtk
from trame_slicer.core import SlicerApp
from vtk.util.numpy_support import numpy_to_vtk


@dataclass
class Host:
    """The stand-in for Slicer's application, and what it was asked to show.

    Attributes:
        app: The real scene with its real logics.
        errors: Texts of error dialogs.
        questions: Texts of questions.
        answer: What is answered to them: OK, or Cancel.
        told: Texts of other dialogs.
    """

    app: SlicerApp
    errors: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    answer: bool = True

    def ask(self, text: str, *_: Any, **__: Any) -> bool:
        self.questions.append(text)
        return self.answer


def start_host() -> Host:
    """Make the scene, and put what a module imports where it looks for it."""
    host = Host(SlicerApp())
    slicer.mrmlScene = host.app.scene
    slicer.app = MagicMock(name="slicer.app")
    slicer.modules = types.SimpleNamespace(
        volumes=types.SimpleNamespace(logic=lambda: host.app.volumes_logic),
        segmentations=types.SimpleNamespace(logic=lambda: host.app.segmentations_logic),
    )
    slicer.util.errorDisplay = lambda text, **more: host.errors.append(text + more.get("detailedText", ""))
    slicer.util.infoDisplay = lambda text, *_, **__: host.told.append(text)
    slicer.util.warningDisplay = lambda text, *_, **__: host.told.append(text)
    slicer.util.confirmOkCancelDisplay = host.ask
    slicer.util.createProgressDialog = MagicMock(name="createProgressDialog")
    internationalization = types.ModuleType("slicer.i18n")
    internationalization.tr = lambda text: text
    internationalization.translate = lambda context, text: text
    sys.modules["slicer.i18n"] = internationalization
    return host


def module_base_classes(**widget: Any) -> None:
    """Slicer's `ScriptedLoadableModule...` classes, bare; `widget` are attributes of the widget class."""

    class ScriptedLoadableModule:
        def __init__(self, parent: Any = None) -> None:
            self.parent = parent

        def setup(self) -> None:
            pass

    bases = types.ModuleType("slicer.ScriptedLoadableModule")
    for name in ("", "Widget", "Logic", "Test"):
        attributes = widget if name == "Widget" else {}
        full = f"ScriptedLoadableModule{name}"
        setattr(bases, full, type(full, (ScriptedLoadableModule,), attributes))
    sys.modules["slicer.ScriptedLoadableModule"] = bases


def add_slice_views(host: Host) -> None:
    """The nodes of three slice views, without windows."""
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        view = host.app.scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        view.SetLayoutName(name)
        view.SetOrientation(orientation)
        layers = host.app.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", name)
        layers.SetLayoutName(name)


def nodes(class_name: str) -> list[Any]:
    return list(slicer.util.getNodesByClass(class_name))


# --- for the stock module


class _MockedModule(types.ModuleType):
    """A module whose every name is a mock, or an empty class where another class derives from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {}) if name in ("QDialog", "ctkSettingsPanel") else MagicMock(name=name)
        setattr(self, name, made)
        return made


def mock_qt(settings: dict[str, Any]) -> None:
    """Qt and what else the stock module imports and these tests do not reach; `settings` are Slicer's."""
    for name in ("qt", "ctk"):
        sys.modules[name] = _MockedModule(name)
    sys.modules["vtkSegmentationCore"] = slicer
    slicer.util.settingsValue = lambda key, default=None, converter=lambda value: value: settings.get(
        key, default
    )
    slicer.util.mainWindow = MagicMock(name="mainWindow")


def file_functions(host: Host) -> None:
    """Slicer's loading and saving of files, which the application does through Qt, on the logics it uses."""

    def load_volume(path: str) -> Any:
        return host.app.volumes_logic.AddArchetypeVolume(path, Path(path).name, 0)

    def save_node(node: Any, path: str) -> bool:
        storage = node.CreateDefaultStorageNode()
        host.app.scene.AddNode(storage)
        storage.SetFileName(path)
        storage.SetUseCompression(1)
        written = bool(storage.WriteData(node))
        host.app.scene.RemoveNode(storage)
        return written

    slicer.util.loadVolume = load_volume
    slicer.util.saveNode = save_node
    slicer.util.tempDirectory = lambda *_, **__: tempfile.mkdtemp()
    sys.modules["sitkUtils"] = types.ModuleType("sitkUtils")
    sys.modules["sitkUtils"].PushVolumeToSlicer = push_volume
    sys.modules["SampleData"] = types.ModuleType("SampleData")
    sys.modules["SampleData"].SampleDataLogic = lambda: types.SimpleNamespace(downloadFromURL=download)

    def download(**_: Any) -> Any:
        raise AssertionError("the scan is on this machine, so the stock module opens it where it is")


def push_volume(image: Any, name: str | None, className: str) -> Any:  # noqa: N803 - Slicer's own name
    """`sitkUtils.PushVolumeToSlicer`: a SimpleITK image, in LPS, as a volume node, in RAS."""
    import SimpleITK

    node = slicer.mrmlScene.AddNewNodeByClass(className, name or "")
    array = SimpleITK.GetArrayFromImage(image)
    data = vtk.vtkImageData()
    data.SetDimensions(*image.GetSize())
    data.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    node.SetAndObserveImageData(data)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine))
    return node


# --- for our module


def real_qt(folder: Path, *modules: str) -> Any:
    """Qt itself, off screen, by PySide; these modules see properties as attributes, as in Slicer's PythonQt.

    Args:
        folder: For Qt's settings.
        modules: Names of the modules, before they are imported.

    Returns:
        The `QApplication`.
    """
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtCore, QtGui, QtWidgets
    from shibokensupport import feature  # comes with the import of PySide6

    qt = types.ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q"):
                setattr(qt, name, getattr(source, name))
    sys.modules["qt"] = qt
    for name in modules:
        feature.set_selection(0x02, name)  # `true_property`
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(folder))
    application.setOrganizationName("tests")

    class SegmentEditor(QtWidgets.QLabel):
        """Stands for `qMRMLSegmentEditorWidget`."""

        def __init__(self) -> None:
            super().__init__("(Slicer's segment editor)")

        def setMRMLScene(self, scene: Any) -> None:  # noqa: N802 - Slicer's own names
            self.scene = scene

        def setMRMLSegmentEditorNode(self, node: Any) -> None:  # noqa: N802
            self.node = node

        def setActiveEffect(self, effect: Any) -> None:  # noqa: N802
            self.effect = effect

    # Before Python 3.12 None has a count of references, and each property that PySide sets takes one away.
    application.spare_references = [None] * 1_000_000
    slicer.qMRMLSegmentEditorWidget = SegmentEditor
    window = QtWidgets.QWidget()
    module_base_classes(layout=QtWidgets.QVBoxLayout(window), window=window)
    return application


def free_folder(folder: Path) -> Path:
    """An empty folder at this place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
