"""Files in and out: geometry survives exactly, another reader agrees, and what is no scan is named as
such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK

from lib.errors import UnusableImage
from lib.volumes import (
    EXTENSIONS,
    check_complete,
    encode,
    read_header,
    read_label,
    read_volume,
    write_label,
    write_map,
)
from tests.app.scan_support import OBLIQUE, SHAPE, block, cut, put_bad_files, scan, write_nifti

FLIPPED = np.diag([-1.5, 2.0, -3.0, 1.0]) + np.array(
    [[0, 0, 0, 90.5], [0, 0, 0, -12], [0, 0, 0, 33], [0] * 4]
)
PERMUTED = np.array([[0.0, 0, 2.5, -10], [-0.9, 0, 0, 20], [0, 1.1, 0, 5], [0, 0, 0, 1]])


def itk_point(path: Path, index: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Where SimpleITK puts a voxel, in RAS mm."""
    image = SimpleITK.ReadImage(str(path))
    return np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("affine", [FLIPPED, PERMUTED], ids=["flipped", "permuted"])
def test_a_label_comes_back_voxel_for_voxel_in_its_place(
    tmp_path: Path, extension: str, affine: np.ndarray[Any, Any]
) -> None:
    path = tmp_path / f"case.v1.2{extension}"
    write_label(path, block(value=3), affine)
    array, found = read_label(path)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, block(value=3))
    np.testing.assert_allclose(found, affine, atol=1e-6)
    for index in [(0, 0, 0), (11, 9, 7), (2, 3, 6)]:
        np.testing.assert_allclose(itk_point(path, index), (affine @ [*index, 1])[:3], atol=1e-4)
        assert SimpleITK.ReadImage(str(path))[index] == block(value=3)[index]


def test_an_oblique_affine_survives_nrrd_to_the_last_bit_and_nifti_to_float32(tmp_path: Path) -> None:
    for extension, tolerance in ((".nrrd", 0.0), (".nii.gz", 1e-6)):
        write_label(tmp_path / f"x{extension}", block(), OBLIQUE)
        np.testing.assert_allclose(
            read_header(tmp_path / f"x{extension}").affine, OBLIQUE, rtol=0, atol=tolerance * 40
        )


def test_a_label_of_a_nifti_scan_has_its_affine_bit_for_bit(tmp_path: Path) -> None:
    image = read_volume(write_nifti(tmp_path / "a.nii.gz", scan()))
    write_label(tmp_path / "l.nii.gz", block(), image.affine)
    np.testing.assert_array_equal(read_label(tmp_path / "l.nii.gz")[1], image.affine)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_map_keeps_its_float_values(tmp_path: Path, extension: str) -> None:
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    write_map(tmp_path / f"m{extension}", values, OBLIQUE)
    array, _ = read_label(tmp_path / f"m{extension}")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values)
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"m{extension}")))
    np.testing.assert_array_equal(read.T, values)


def test_a_scan_written_by_another_program_reads_the_same(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(scan().T)
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((10.0, -20.0, 30.5))
    image.SetDirection((0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    for name in ("i.nii.gz", "i.nii", "i.nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / name), useCompression=True)
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, scan())
        np.testing.assert_allclose(
            (volume.affine @ [5, 6, 7, 1])[:3], itk_point(tmp_path / name, (5, 6, 7)), atol=1e-4
        )


def test_the_content_and_not_the_name_says_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "really_nrrd.nii.gz"
    path.write_bytes(encode(block(), OBLIQUE, "x.nrrd"))
    assert read_header(path).extension == ".nrrd"
    np.testing.assert_array_equal(read_label(path)[0], block())


def test_equal_labels_give_equal_bytes(tmp_path: Path) -> None:
    assert encode(block(), OBLIQUE, "a.nii.gz") == encode(block(), OBLIQUE, "b.nii.gz")


def test_scaling_in_a_nifti_header_is_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(scan(), OBLIQUE)
    image.header.set_slope_inter(2.0, -100.0)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    expected = np.asarray(nibabel.load(tmp_path / "scaled.nii.gz").dataobj, dtype=np.float32)
    np.testing.assert_allclose(read_volume(tmp_path / "scaled.nii.gz").array, expected)


def test_every_unusable_kind_of_file_is_named(tmp_path: Path) -> None:
    for name, word in put_bad_files(tmp_path).items():
        if not name.startswith("._"):
            with pytest.raises(UnusableImage, match=word):
                read_volume(tmp_path / name)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_found_without_reading_a_whole_pool(
    tmp_path: Path, extension: str, keep: float
) -> None:
    path = tmp_path / f"t{extension}"
    write_map(path, np.random.default_rng(1).random((20, 20, 20)).astype(np.float32), OBLIQUE)
    assert check_complete(path).shape == (20, 20, 20)
    with pytest.raises(UnusableImage, match=r"truncated|not a NIfTI"):
        check_complete(cut(path, keep))


def test_damaged_compressed_data_is_found(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "d.nii.gz", scan((30, 30, 30)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UnusableImage, match="truncated or damaged"):
        read_volume(path)


def test_a_nrrd_that_names_another_file_of_the_machine_is_refused(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "x.nhdr"), scan(), detached_header=True)
    path = tmp_path / "x.nrrd"
    (tmp_path / "x.nhdr").rename(path)
    with pytest.raises(UnusableImage, match="another file"):
        read_volume(path)


def test_a_header_that_claims_terabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "huge.nii", scan())
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(bytes(content))
    with pytest.raises(UnusableImage, match="claims"):
        read_volume(path)


def test_a_scan_without_a_usable_place_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "z.nii", scan())
    content = bytearray(path.read_bytes())
    content[296:312] = bytes(16)  # srow_y
    path.write_bytes(bytes(content))
    with pytest.raises(UnusableImage, match="affine"):
        read_volume(path)


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    from lib.workspace import write_file_atomic

    path = tmp_path / "l.nii.gz"
    write_label(path, block(), OBLIQUE)
    before = path.read_bytes()

    def die(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file_atomic(path, die)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["l.nii.gz"]
