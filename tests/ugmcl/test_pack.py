"""Packs: what goes in comes out, and what is no pack is refused with a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.ugmcl.toy_packs import NAMES, write_balls
from tests.ugmcl.toy_scans import ball_case
from ugmcl.intensities import store_intensities
from ugmcl.pack import FORMAT, Pack, PackedCase, PackHeader, write_pack
from ugmcl.volume import Volume

OBLIQUE = np.array([[0.0, 0.8, 0.1, -3.0], [0.7, 0.0, 0.0, 5.5], [0.0, 0.1, -2.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def restored(array: np.ndarray, bits: int = 16) -> tuple[np.ndarray, bool, np.dtype]:
    kept = store_intensities(array, bits)
    values = kept.voxels.astype(np.float64) * kept.scale + kept.offset
    return values, kept.exact, kept.voxels.dtype


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 7, 255], np.uint8),
        ([-1000, 3, -800], np.int16),
        ([-30000, 12, 30000], np.int16),
        ([1_000_000, 1_000_001, 1_060_000], np.int16),
        ([5, 5, 5], np.uint8),
        ([0, 16, 4096 * 16], np.int16),
    ],
)
def test_whole_numbers_come_back_to_the_bit(values: list[int], dtype: type) -> None:
    array = np.array(values, dtype=np.float32).reshape(1, 1, 3)
    back, exact, kept = restored(array)
    assert exact
    assert kept == dtype
    assert np.array_equal(back, array)


def test_eight_bits_are_found_in_a_normalized_scan() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 6, 6))
    array = ((levels - 31.7) / 12.3).astype(np.float32)
    back, exact, kept = restored(array, 8)
    assert exact
    assert kept == np.uint8
    np.testing.assert_allclose(back, array, atol=1e-5)


def test_more_levels_are_rounded_evenly_and_the_extremes_clipped_in_eight_bits() -> None:
    array = np.random.default_rng(0).normal(size=(40, 40, 40))
    back, exact, _ = restored(array, 16)
    assert not exact
    assert np.abs(back - array).max() <= (array.max() - array.min()) / 65535 / 2 * 1.001
    array[0, 0, 0] = 1e6
    back, exact, kept = restored(array, 8)
    assert not exact
    assert kept == np.uint8
    low, high = np.percentile(array, [0.1, 99.9])
    inner = (array > low) & (array < high)
    assert np.abs(back - array)[inner].max() <= (high - low) / 255 / 2 * 1.001
    assert back[0, 0, 0] == pytest.approx(high)


def test_a_pack_gives_back_scans_labels_places_and_split(tmp_path: Path) -> None:
    scan, label = ball_case("a", 2)
    whole = Volume(np.round(scan.array * 100), OBLIQUE)
    header = PackHeader("balls", ["lower", "upper"], ["a", "b"], ["c"], "source")
    cases = [PackedCase("a", whole, label), PackedCase("b", whole, None), PackedCase("c", whole, label)]
    assert write_pack(tmp_path / "p.npz", header, cases) == {"a": True, "b": True, "c": True}
    pack = Pack(tmp_path / "p.npz")
    assert (pack.data_set, pack.classes, pack.pool, pack.test) == (
        "balls",
        ("lower", "upper"),
        ["a", "b"],
        ["c"],
    )
    (case,) = pack.cases(["a"])
    volume, found = pack.load(case)
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, whole.array)
    assert np.array_equal(volume.affine, OBLIQUE)
    assert found is not None
    assert np.array_equal(found, label)
    assert pack.load(pack.unlabeled(["a"])[0])[1] is None
    with pytest.raises(ValueError, match=r"no label of b"):
        pack.cases(["b"])
    with pytest.raises(ValueError, match=r"no case z"):
        pack.unlabeled(["z"])
    meta = json.loads(bytes(np.load(tmp_path / "p.npz")["meta"]).decode())
    assert meta["format"] == FORMAT == "ugmcl-pack-1"
    assert meta["spacing_mm"]["a"] == pytest.approx([0.7, np.hypot(0.8, 0.1), np.hypot(0.1, 2.0)])


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_balls(tmp_path / "1.npz"), write_balls(tmp_path / "2.npz")
    assert one.read_bytes() == two.read_bytes()


def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    scan, label = ball_case("a")
    header = PackHeader("balls", ["ball"], ["a"], [], "source")
    broken = Volume(np.where(label, np.nan, scan.array), np.eye(4))
    for case, words in [
        (PackedCase("a/b", scan, label), "slash"),
        (PackedCase("a", scan, label[1:]), "shape"),
        (PackedCase("a", scan, label * 3), r"value 3, but 1 class"),
        (PackedCase("a", broken, label), "not finite"),
        (PackedCase("b", scan, label), "split names a,"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_pack(tmp_path / "p.npz", header, [case])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_pack_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pack .*none\.npz"):
        Pack(tmp_path / "none.npz")
    for name, content in (
        ("empty", b""),
        ("text", b"no pack"),
        ("cut", write_balls(tmp_path / "p").read_bytes()[:500]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="not a readable pack"):
            Pack(tmp_path / name)
    np.savez(tmp_path / "other.npz", meta=np.frombuffer(b'{"format": "ugmcl-pack-9"}', dtype=np.uint8))
    with pytest.raises(ValueError, match=r"'ugmcl-pack-9', not 'ugmcl-pack-1'"):
        Pack(tmp_path / "other.npz")
    np.savez(tmp_path / "bare.npz", meta=np.frombuffer(b'{"format": "ugmcl-pack-1"}', dtype=np.uint8))
    with pytest.raises(ValueError, match="does not say its affine, classes"):
        Pack(tmp_path / "bare.npz")


def test_damage_inside_is_named_when_it_is_met(tmp_path: Path) -> None:
    path = write_balls(tmp_path / "p.npz")
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)  # within the first scan
    path.write_bytes(bytes(content))
    pack = Pack(path)
    with pytest.raises(ValueError, match=rf"image/{NAMES[0]} cannot be read"):
        pack.load(pack.unlabeled(NAMES[:1])[0])
