"""Scan, segmentation and uncertainty as Slicer draws them, off screen, by Mesa where there is no GPU.

Runs in the environment of slicer-core, with the arguments URL READER FOLDER MODULE_FOLDER. Opens the reader's
next case and leaves `slicer.png`, and for each view the pixels with and without the uncertainty.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition
from vtk.util.numpy_support import vtk_to_numpy

from tests.viewers.slicer_side.facts import ijk_array, ijk_to_ras, write_facts
from tests.viewers.slicer_side.host import start_host

PIXELS = 420
THRESHOLD, OPACITY = 0.5, 0.6


def pixels_of(view: Any) -> np.ndarray:
    """`(row, column, 3)`, row 0 at the bottom, as Slicer's XY coordinates have it."""
    view.render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.render_window())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[..., :3].copy()


def slice_views(host: Any) -> list[Any]:
    manager = host.app.view_manager
    manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    kinds = (
        ViewLayoutDefinition.axial_view(),
        ViewLayoutDefinition.sagittal_view(),
        ViewLayoutDefinition.coronal_view(),
    )
    for kind in kinds:
        manager.create_view(kind)
    views = manager.get_slice_views()
    for view in views:
        view.render_window().SetOffScreenRendering(1)
        view.update_size(PIXELS, PIXELS)
    return list(views)


def xy_to_ras(view: Any) -> np.ndarray:
    matrix = view.get_view_node().GetXYToRAS()
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def show_case(session: Any, views: list[Any]) -> None:
    session.open_case(session.fetch_next())
    session.show_segmentation(session.fetch_segmentation(), THRESHOLD, OPACITY)
    drawing = session.scene.segmentation.GetDisplayNode()
    drawing.SetAllSegmentsVisibility2DFill(False)  # the contour alone, so that the colors below it show
    drawing.SetSliceIntersectionThickness(2)
    for view in views:
        view.fit_view_to_content()
    session.scene.jump_to(session.place)


def save_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels[::-1])).quantize(128).save(path, optimize=True)


def main() -> None:
    url, name, folder, module_folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    sys.path.insert(0, module_folder)
    from UGMCLAssistLib.scene import CaseScene
    from UGMCLAssistLib.session import AssistSession

    host = start_host()
    views = slice_views(host)
    session = AssistSession(CaseScene(host.app.scene, host.app.volumes_logic, host.app.segmentations_logic))
    session.connect(url, name)
    show_case(session, views)
    save_png(folder / "slicer.png", np.hstack([pixels_of(view) for view in views]))
    session.scene.segmentation.GetDisplayNode().SetVisibility(False)  # its contour covers both
    with_colors = [pixels_of(view) for view in views]
    session.scene.set_opacity(0.0)
    without = [pixels_of(view) for view in views]
    scene = session.scene
    write_facts(
        folder,
        "pixels",
        with_colors=np.stack(with_colors),
        without=np.stack(without),
        xy_to_ras=np.stack([xy_to_ras(view) for view in views]),
        uncertainty=ijk_array(scene.uncertainty),
        uncertainty_to_ras=ijk_to_ras(scene.uncertainty),
    )
    renderer = views[0].render_window().GetClassName()
    facts = {"case": session.case, "window": renderer, "threshold": THRESHOLD, "opacity": OPACITY}
    (folder / "facts.json").write_text(json.dumps(facts))
    session.client.release(session.case)
    session.close()


if __name__ == "__main__":
    main()
