"""Names and labels at the door: what is let in, what it becomes, and what the refusal says."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lib.checks import check_label, safe_id, safe_tag
from lib.errors import Refusal
from lib.volumes import read_volume, write_label, write_map
from tests.app.scan_support import OBLIQUE, SHAPE, block, cut, scan, write_nifti
from ugmcl.volume import Volume

ONE = {"foreground": 1}
TWO = {"anterior": 1, "posterior": 2}


@pytest.fixture
def image(tmp_path: Path) -> Volume:
    return read_volume(write_nifti(tmp_path / "image.nii.gz", scan()))


def refusal(*arguments: Any, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check_label(*arguments, **options)
    assert caught.value.status_code == 422
    return caught.value


def submitted(tmp_path: Path, array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] = OBLIQUE) -> Path:
    return write_nifti(tmp_path / "label.nii.gz", array, affine)


def two_segments() -> np.ndarray[Any, Any]:
    label = block()
    label[8:10, 7:9, 5:7] = 2
    return label


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_whole_numbers_of_any_type_become_the_smallest_unsigned_one(
    tmp_path: Path, image: Volume, dtype: str
) -> None:
    found = check_label(submitted(tmp_path, block().astype(dtype)), image, ONE)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, block())


@pytest.mark.parametrize(
    ("value", "word"), [(0.5, "fraction 0.5"), (-1, "negative"), (np.nan, "NaN"), (np.inf, "NaN")]
)
def test_values_that_are_no_labels_are_refused(
    tmp_path: Path, image: Volume, value: float, word: str
) -> None:
    label = block().astype(np.float32)
    label[0, 0, 0] = value
    write_map(tmp_path / "l.nrrd", label, OBLIQUE)
    assert word in refusal(tmp_path / "l.nrrd", image, ONE).detail


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_label_stored_along_other_axes_is_brought_to_the_images(
    tmp_path: Path, image: Volume, order: tuple[int, ...]
) -> None:
    for flips in product((False, True), repeat=3):
        # The same physical label, with its axes permuted and flipped, and the affine to match.
        turned = np.transpose(block(), order)
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for new, old in enumerate(order):
            matrix[old, new] = -1 if flips[new] else 1
            matrix[old, 3] = SHAPE[old] - 1 if flips[new] else 0
        turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        write_label(tmp_path / "l.nrrd", turned, image.affine @ matrix)
        np.testing.assert_array_equal(check_label(tmp_path / "l.nrrd", image, ONE), block())


def test_a_cube_keeps_its_axes_apart_by_the_affine(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = read_volume(write_nifti(tmp_path / "i.nii.gz", scan((9, 9, 9)), affine))
    label = block((9, 9, 9))
    swapped = affine @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    path = submitted(tmp_path, np.transpose(label, (1, 0, 2)), swapped)
    np.testing.assert_array_equal(check_label(path, image, ONE), label)


def test_another_grid_is_refused_with_the_one_expected(tmp_path: Path, image: Volume) -> None:
    found = refusal(submitted(tmp_path, block((12, 10, 9))), image, ONE)
    assert found.extra["expected_shape"] == [12, 10, 8]
    np.testing.assert_allclose(found.extra["expected_affine"], image.affine)
    assert "12x10x9" in found.detail
    assert "12x10x8" in found.detail


def test_the_grid_is_compared_before_voxels_are_read_that_may_fill_the_memory(
    tmp_path: Path, image: Volume
) -> None:
    detail = refusal(cut(submitted(tmp_path, scan((12, 10, 9)))), image, ONE).detail
    assert "12x10x9" in detail
    assert "truncated" not in detail


@pytest.mark.parametrize(("shift_mm", "accepted"), [(5e-4, True), (2e-3, False)])
def test_corners_may_lie_a_thousandth_of_a_millimeter_apart(
    tmp_path: Path, image: Volume, shift_mm: float, accepted: bool
) -> None:
    moved = image.affine.copy()
    moved[0, 3] += shift_mm
    write_label(tmp_path / "l.nrrd", block(), moved)
    if accepted:
        check_label(tmp_path / "l.nrrd", image, ONE)
    else:
        assert "mm from the image's" in refusal(tmp_path / "l.nrrd", image, ONE).detail


def test_a_small_rotation_shows_at_the_far_corner(tmp_path: Path, image: Volume) -> None:
    turned = image.affine.copy()
    turned[:3, 0] += 2e-4  # 11 voxels away this is 2 to 4 thousandths of a millimeter
    write_label(tmp_path / "l.nrrd", block(), turned)
    refusal(tmp_path / "l.nrrd", image, ONE)


def test_an_empty_label_needs_a_word(tmp_path: Path, image: Volume) -> None:
    path = submitted(tmp_path, np.zeros(SHAPE, np.uint8))
    assert "no_finding" in refusal(path, image, ONE).detail
    for options in ({"no_finding": True}, {"allow_empty": True}):
        assert not check_label(path, image, ONE, **options).any()


def test_values_mean_what_their_names_say(tmp_path: Path, image: Volume) -> None:
    info = [{"name": "posterior", "idx": 1}, {"name": "anterior", "idx": 2}]
    found = check_label(submitted(tmp_path, two_segments()), image, TWO, info)
    np.testing.assert_array_equal(found, np.array([0, 2, 1], np.uint8)[two_segments()])


def test_without_names_the_values_are_the_projects(tmp_path: Path, image: Volume) -> None:
    path = submitted(tmp_path, two_segments())
    np.testing.assert_array_equal(check_label(path, image, TWO), two_segments())
    assert "the value 2" in refusal(path, image, ONE).detail


def test_large_values_are_remapped(tmp_path: Path, image: Volume) -> None:
    path = submitted(tmp_path, block().astype(np.uint16) * 700)
    found = check_label(path, image, TWO, [{"name": "posterior", "idx": 700}])
    np.testing.assert_array_equal(found, block(value=2))


def test_the_default_project_takes_one_segment_under_any_name(tmp_path: Path, image: Volume) -> None:
    path = submitted(tmp_path, block())
    np.testing.assert_array_equal(check_label(path, image, ONE, [{"name": "LA wall", "idx": 1}]), block())
    two = submitted(tmp_path, two_segments())
    info = [{"name": "LA", "idx": 1}, {"name": "vein", "idx": 2}]
    assert "one class" in refusal(two, image, ONE, info).detail
    path = submitted(tmp_path, block())
    background = {"name": "Background", "idx": 1}
    assert "what is not segmented" in refusal(path, image, ONE, [background]).detail
    beside = [{**background, "idx": 0}, {"name": "LA", "idx": 1}]  # as the stock clients list it
    np.testing.assert_array_equal(check_label(path, image, ONE, beside), block())


def test_a_named_project_refuses_an_unknown_segment_but_not_an_empty_one(
    tmp_path: Path, image: Volume
) -> None:
    info = [{"name": "anterior", "idx": 1}, {"name": "tumor", "idx": 2}]
    assert "tumor" in refusal(submitted(tmp_path, two_segments()), image, TWO, info).detail
    check_label(submitted(tmp_path, block()), image, TWO, info)
    single = {"liver": 1}
    assert (
        "liver" in refusal(submitted(tmp_path, block()), image, single, [{"name": "spleen", "idx": 1}]).detail
    )


@pytest.mark.parametrize("labels", [ONE, TWO])
@pytest.mark.parametrize("band", ["low", "medium", "high"])
def test_uncertainty_bands_are_to_be_deleted_first(
    tmp_path: Path, image: Volume, labels: dict[str, int], band: str
) -> None:
    path = submitted(tmp_path, block())
    found = refusal(path, image, labels, [{"name": band, "idx": 1}])
    assert "delete the segments low, medium, high first" in found.detail
    info = [{"name": next(iter(labels)), "idx": 1}, {"name": band, "idx": 2}]
    check_label(path, image, labels, info)  # a band segment that is empty does no harm


def test_slicers_numbering_with_a_background_segment_is_understood(tmp_path: Path, image: Volume) -> None:
    # Stock Slicer: segments background, anterior, posterior; it leaves out the first and exports 1 and 2.
    info = [{"name": "anterior", "idx": 2}, {"name": "posterior", "idx": 3}]
    found = check_label(submitted(tmp_path, two_segments()), image, TWO, info)
    np.testing.assert_array_equal(found, two_segments())


@pytest.mark.parametrize("first", [2, 3])
def test_a_value_with_two_meanings_is_refused_with_what_to_do(
    tmp_path: Path, image: Volume, first: int
) -> None:
    # 2 is "anterior" by its idx, and "posterior" if Slicer left out the "background" before them.
    info = [{"name": "anterior", "idx": first}, {"name": "posterior", "idx": first + 1}]
    path = submitted(tmp_path, block(value=2))
    if first == 2:
        found = refusal(path, image, TWO, info).detail
        assert "'anterior'" in found
        assert "'posterior'" in found
        assert "delete the segment that comes before them" in found
    else:  # 2 is no idx here: the order is the only meaning
        np.testing.assert_array_equal(check_label(path, image, TWO, info), block(value=2))


def test_a_gap_in_the_numbering_is_as_ambiguous_as_a_late_start(tmp_path: Path, image: Volume) -> None:
    three = {"anterior": 1, "wall": 2, "posterior": 3}
    info = [{"name": name, "idx": idx} for name, idx in (("anterior", 1), ("wall", 3), ("posterior", 4))]
    assert "may mean two things" in refusal(submitted(tmp_path, block(value=3)), image, three, info).detail
    found = check_label(submitted(tmp_path, block(value=2)), image, three, info)
    np.testing.assert_array_equal(found, block(value=2))


def test_two_readings_that_agree_are_not_questioned(tmp_path: Path, image: Volume) -> None:
    path = submitted(tmp_path, block(value=2))
    # One class: the one segment is the organ under either name.
    info = [{"name": "LA", "idx": 2}, {"name": "vein", "idx": 3}]
    np.testing.assert_array_equal(check_label(path, image, ONE, info), block())
    listed_backwards = [{"name": "posterior", "idx": 2}, {"name": "anterior", "idx": 1}]
    np.testing.assert_array_equal(check_label(path, image, TWO, listed_backwards), block(value=2))


@pytest.mark.parametrize(
    "info",
    [
        {"foreground": 1},
        "foreground",
        [{"name": "foreground"}],
        [{"idx": 1}],
        ["foreground"],
        [{"name": "foreground", "idx": "1"}],
        [{"name": "foreground", "idx": 1}, {"name": "other", "idx": 1}],
        [{"name": "foreground", "idx": float("nan")}],
    ],
)
def test_a_malformed_label_info_is_refused(tmp_path: Path, image: Volume, info: Any) -> None:
    assert "label_info is a list" in refusal(submitted(tmp_path, block()), image, ONE, info).detail


def test_a_value_that_label_info_leaves_out_is_refused(tmp_path: Path, image: Volume) -> None:
    info = [{"name": "anterior", "idx": 1}]
    assert "does not name" in refusal(submitted(tmp_path, two_segments()), image, TWO, info).detail


def test_files_that_are_no_labels_are_refused(tmp_path: Path, image: Volume) -> None:
    (tmp_path / "junk.nii.gz").write_bytes(b"no image")
    refusal(tmp_path / "junk.nii.gz", image, ONE)
    refusal(cut(submitted(tmp_path, scan().astype(np.uint16))), image, ONE)
    refusal(submitted(tmp_path, np.zeros((12, 10, 8, 2), np.uint8)), image, ONE)


@pytest.mark.parametrize(
    "given_id",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        ".hidden",
        "a\0b",
        "a\nb",
        " a",
        "a ",
        "x" * 300,
        None,
        7,
        "\udcff",
    ],
)
def test_ids_that_could_leave_the_folder_are_refused(given_id: Any) -> None:
    with pytest.raises(Refusal) as caught:
        safe_id(given_id)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("given_id", ["a", "case.v1.2", "Müller 7", "名前", "a..b", "-x", "100%"])
def test_ordinary_ids_pass(given_id: str) -> None:
    assert safe_id(given_id) == given_id


@given(st.text(max_size=40))
def test_an_id_that_passes_names_a_file_in_its_folder(text: str) -> None:
    try:
        passed = safe_id(text)
    except Refusal:
        return
    path = Path("/studies") / f"{passed}.nii.gz"
    assert path.parent == Path("/studies")
    assert path.resolve().parent == Path("/studies")


def test_only_two_tags_exist() -> None:
    from monailabel.interfaces.datastore import DefaultLabelTag

    assert [safe_tag("final"), safe_tag(DefaultLabelTag.ORIGINAL)] == ["final", "original"]
    for tag in ("", "../final", "uncertainty", None, "FINAL"):
        with pytest.raises(Refusal) as caught:
            safe_tag(tag)
        assert caught.value.status_code == 400
