"""Pictures and charts of the review page: aspect, contours, heat, ticks."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from server.review import drawing
from server.review.case_pictures import CasePictures, tag_of
from server.review.charts import Dot, bars, chart, round_steps
from server.slice_view import REFERENCE

BLUE = (0x56, 0xB4, 0xE9)


def test_a_picture_has_the_shape_of_the_tissue_not_of_the_voxels() -> None:
    # 10 rows of 3 mm, 60 columns of 1 mm: twice as wide as high.
    assert drawing.size_of((10, 60), (3.0, 1.0), 200) == (100, 200)
    assert drawing.size_of((60, 10), (1.0, 3.0), 200) == (200, 100)
    assert drawing.size_of((1000, 2), (1.0, 1.0), 200) == (200, drawing.SMALLEST)


def test_a_contour_runs_along_the_label_and_is_clear_inside_and_outside() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[3:7, 2:8] = 1
    drawn = drawing.contour(labels, (100, 100), REFERENCE)
    line = (drawn[:, :, :3] == BLUE).all(axis=2) & (drawn[:, :, 3] == 255)
    rows, columns = np.nonzero(line)
    # Resampling rounds the corners; a line three pixels wide stays within three pixels of the edge.
    assert rows.min() == pytest.approx(30, abs=3)
    assert rows.max() == pytest.approx(69, abs=3)
    assert (columns.min(), columns.max()) == (pytest.approx(20, abs=3), pytest.approx(79, abs=3))
    assert drawn[50, 50, 3] == 0
    assert drawn[5, 5, 3] == 0
    casing = (drawn[:, :, 3] > 0) & ~line
    assert (drawn[casing][:, :3] == 0).all()


def test_two_classes_that_touch_have_a_contour_between_them() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[2:8, 2:5], labels[2:8, 5:8] = 1, 5
    drawn = drawing.contour(labels, (100, 100), REFERENCE)
    assert drawn[50, 45:55, 3].max() == 255
    assert drawn[50, 35, 3] == 0


def test_heat_is_clear_where_the_model_is_sure_and_never_hides_the_scan() -> None:
    unsure = np.array([[0, 5], [128, 255]], np.uint8)
    drawn = drawing.heat(np.kron(unsure, np.ones((20, 20), np.uint8)), (40, 40))
    assert drawn[2, 2, 3] == 0
    assert drawn[2, 37, 3] == 0
    assert 0 < drawn[37, 2, 3] <= drawn[37, 37, 3] == round(drawing.VEIL * 255)
    assert tuple(drawn[37, 37, :3]) == (253, 231, 36)  # the bright end of viridis


def test_layers_lie_over_the_scan_in_their_order() -> None:
    scan = np.full((2, 2), 100, np.uint8)
    layer = np.zeros((2, 2, 4), np.uint8)
    layer[0, 0] = (200, 0, 0, 255)
    layer[1, 1] = (200, 0, 0, 51)
    shown = drawing.over(scan, [layer])
    assert tuple(shown[0, 0]) == (200, 0, 0)
    assert tuple(shown[1, 1]) == (120, 80, 80)
    assert tuple(shown[0, 1]) == (100, 100, 100)


@pytest.mark.parametrize("there", [False, True])
def test_a_thumbnail_is_a_png_of_the_asked_size_with_what_there_is(there: bool) -> None:
    scan = np.arange(100, dtype=np.uint8).reshape(10, 10)
    layer = (scan > 50).astype(np.uint8) if there else None
    content = drawing.thumbnail(scan, layer, layer, None if layer is None else layer * 255, (60, 40))
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size, picture.mode) == ("PNG", (40, 60), "RGB")
    channels = np.asarray(picture)
    colored = (channels.max(axis=2).astype(int) - channels.min(axis=2)).max() > 0
    assert colored == there


def test_steps_are_round_and_reach_over_the_values() -> None:
    assert round_steps(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_steps(5, 6, whole=True) == [5, 6]
    assert round_steps(5, 5, whole=True) == [5, 6]
    assert round_steps(3, 17, whole=True) == [0, 5, 10, 15, 20]


def test_values_are_placed_in_the_field_of_a_chart() -> None:
    drawn = chart(
        "Dice", "labels", "Dice",
        [Dot(5, 0.5, True, "a"), Dot(10, 1.0, False, "b")], y_range=(0.0, 1.0), whole_x=True,
    )  # fmt: skip
    first, second = drawn.dots
    assert (first.x, second.x) == (drawn.left, drawn.right)
    assert (first.y, second.y) == ((drawn.top + drawn.bottom) / 2, drawn.top)
    assert drawn.line == f"M{drawn.left} {first.y:g} L{drawn.right} {drawn.top}"
    assert chart("Dice", "labels", "Dice", [Dot(5, 0.5, True, "a")]).line == ""


def test_the_highest_bar_fills_its_field() -> None:
    assert bars([0, 2, 4], 4, 30.0, 20.0) == [(0.0, 20.0, 0.0), (10.0, 10.0, 10.0), (20.0, 0.0, 20.0)]
    assert bars([0, 0], 0, 10.0, 20.0) == [(0.0, 20.0, 0.0), (5.0, 20.0, 0.0)]


class Changing:
    """The part of an app that pictures ask; its case changes after each of the first `changes` readings."""

    def __init__(self, changes: int) -> None:
        self.review, self.changes, self.read = self, changes, 0

    def state(self, image: str) -> dict[str, str]:
        return {"key": f"state {min(self.read, self.changes)}"}

    def volumes(self, image: str) -> SimpleNamespace:
        array = np.full((2, 3, 4), min(self.read, self.changes), np.uint8)
        self.read += 1
        return SimpleNamespace(
            affine=np.eye(4), image=array, label=None, segmentation=None, uncertainty=None
        )  # fmt: skip


@pytest.mark.parametrize("changes", [0, 1, 2])
def test_pictures_of_a_case_that_changes_while_it_is_read_are_of_the_state_they_are_kept_under(
    changes: int,
) -> None:
    app, pictures = Changing(changes), CasePictures()
    for _ in range(2):
        case, tag = pictures.case(app, "a")
        assert tag == tag_of({"key": f"state {changes}"})
        assert (case.layers["image"] == changes).all()
    assert app.read == changes + 1
