"""Data sets on disk become packs: three layouts, merged classes, and what is wrong with a folder is said."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from server.cli import main
from server.packing.sources import find_source
from tests.ugmcl.toy_scans import ball_case
from ugmcl.pack import Pack

AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])


def write_scan(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def scans(count: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two-class balls with whole-numbered intensities."""
    cases = {f"c{number}": ball_case(f"c{number}", 2, 12) for number in range(count)}
    return {
        name: (np.round(100 * scan.array).astype(np.int16), label) for name, (scan, label) in cases.items()
    }


def write_folder(folder: Path, split: object) -> Path:
    for name, (image, label) in scans().items():
        write_scan(folder / "images" / f"{name}.nii.gz", image)
        write_scan(folder / "labels" / f"{name}.nii.gz", label)
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def write_decathlon(folder: Path, labels: dict[str, object]) -> Path:
    entries = []
    for name, (image, label) in scans().items():
        write_scan(folder / "imagesTr" / f"{name}.nii.gz", np.stack([image, -image], axis=3))
        write_scan(folder / "labelsTr" / f"{name}.nii.gz", label)
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    about = {"name": "Toy Task", "labels": labels, "training": entries, "test": ["./imagesTs/x.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def write_h5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    for name, (image, label) in scans().items():
        (folder / name).mkdir(parents=True)
        with h5py.File(folder / name / "mri_norm2.h5", "w") as file:
            file["image"] = ((image - image.mean()) / image.std()).astype(np.float32)
            file["label"] = (label > 0).astype(np.uint8)
    (folder.parent / "train.list").write_text("c1\nc0\n")
    (folder.parent / "test.list").write_text("c2\n\n")
    return folder


def pack(data: Path, out: Path, *more: str) -> int:
    return main(["experiment", "pack", "--data", str(data), "--out", str(out), *more])


def test_a_folder_becomes_a_pack_with_its_order_places_and_labels(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "toys", {"pool": ["c2", "c0"], "test": ["c1"]})
    assert pack(data, tmp_path / "out" / "p.npz", "--classes", "lower, upper") == 0
    packed = Pack(tmp_path / "out" / "p.npz")
    assert (packed.data_set, packed.classes) == ("toys", ("lower", "upper"))
    assert (packed.pool, packed.test) == (["c2", "c0"], ["c1"])
    for name, (image, label) in scans().items():
        volume, found = packed.load(packed.cases([name])[0])
        assert np.array_equal(volume.array, image)
        assert np.array_equal(volume.affine, AFFINE)
        assert found is not None
        assert np.array_equal(found, label)


def test_classes_are_counted_and_merged(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "toys", {"train": ["c0", "c1", "c2"]})
    assert pack(data, tmp_path / "two.npz", "--test-last", "1") == 0
    two = Pack(tmp_path / "two.npz")
    assert (two.classes, two.pool, two.test) == (("class1", "class2"), ["c0", "c1"], ["c2"])
    assert (
        pack(data, tmp_path / "one.npz", "--merge", "--classes", "ball", "--name", "balls", "--bits", "8")
        == 0
    )
    one = Pack(tmp_path / "one.npz")
    assert (one.data_set, one.classes) == ("balls", ("ball",))
    found = one.load(one.cases(["c0"])[0])[1]
    assert found is not None
    assert np.array_equal(found, scans()["c0"][1] > 0)


def test_the_left_atrium_layout_is_found_with_its_lists(tmp_path: Path) -> None:
    data = write_h5(tmp_path / "set" / "cases")
    assert pack(data, tmp_path / "p.npz") == 0
    packed = Pack(tmp_path / "p.npz")
    assert (packed.data_set, packed.pool, packed.test) == ("left_atrium", ["c1", "c0"], ["c2"])
    volume, label = packed.load(packed.cases(["c1"])[0])
    assert volume.spacing_mm == (0.625, 0.625, 0.625)
    image, reference = scans()["c1"]
    np.testing.assert_allclose(volume.array, (image - image.mean()) / image.std(), atol=1e-4)
    assert label is not None
    assert np.array_equal(label, reference > 0)
    assert pack(data, tmp_path / "q.npz", "--train-list", str(tmp_path / "none.list")) == 2


@pytest.mark.parametrize(
    "labels", [{"0": "background", "1": "lower", "2": "upper"}, {"background": 0, "upper": 2, "lower": 1}]
)
def test_the_decathlon_layout_names_its_classes(labels: dict[str, object], tmp_path: Path) -> None:
    data = write_decathlon(tmp_path / "Task99", labels)
    assert pack(data, tmp_path / "p.npz", "--channel", "1", "--test-last", "1") == 0
    packed = Pack(tmp_path / "p.npz")
    assert (packed.data_set, packed.classes) == ("toy_task", ("lower", "upper"))
    assert (packed.pool, packed.test) == (["c0", "c1"], ["c2"])
    assert np.array_equal(packed.load(packed.cases(["c0"])[0])[0].array, -scans()["c0"][0])


def test_what_is_wrong_is_said_and_no_pack_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.npz"
    several = write_decathlon(tmp_path / "several", {"0": "background", "1": "a", "2": "b"})
    gaps = write_decathlon(tmp_path / "gaps", {"0": "background", "2": "b"})
    missing = write_folder(tmp_path / "missing", {"pool": ["c0", "c9"]})
    twice = write_folder(tmp_path / "twice", {"pool": ["c0", "c1"], "test": ["c1"]})
    damaged = write_folder(tmp_path / "damaged", {"pool": ["c0"]})
    (damaged / "images" / "c0.nii.gz").write_bytes(b"no scan")
    halves = write_folder(tmp_path / "halves", {"pool": ["c0"]})
    write_scan(halves / "labels" / "c0.nii.gz", np.full((12, 12, 12), 0.5, np.float32))
    unsplit = write_folder(tmp_path / "unsplit", {"pool": "c0"})
    (tmp_path / "bare").mkdir()
    for data, words, sentence in [
        (several, (), "Name an image of the fourth axis with --channel"),
        (gaps, ("--channel", "0"), "names the label values [0, 2]"),
        (missing, (), "has no c9.nii.gz, which split.json names"),
        (twice, (), "names c1 more than once"),
        (twice, ("--test-last", "1"), "has 1 test cases already"),
        (damaged, (), "c0.nii.gz cannot be read"),
        (halves, (), "whole numbers from 0 to 255"),
        (unsplit, (), "no split.json with a list 'pool'"),
        (tmp_path / "bare", (), "shows none of the layouts"),
        (tmp_path / "nowhere", (), "There is no folder"),
        (missing, ("--name", "a b"), "has no c9.nii.gz"),
        (damaged.parent / "halves", ("--merge", "--classes", "a,b"), "--merge makes one class"),
    ]:
        assert pack(data, out, *words) == 2
        assert sentence in capsys.readouterr().err
        assert not out.exists()


def test_the_same_files_give_the_same_source_hash_and_others_another(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "toys", {"pool": ["c0", "c1", "c2"]})
    sources = []
    for number in range(3):
        if number == 2:
            write_scan(data / "labels" / "c1.nii.gz", np.zeros((12, 12, 12), np.uint8))
        assert pack(data, tmp_path / f"{number}.npz") == 0
        meta = json.loads(bytes(np.load(tmp_path / f"{number}.npz")["meta"]).decode())
        sources.append(meta["source"])
    assert sources[0] == sources[1] != sources[2]


def test_the_real_hippocampus_set_is_found(hippocampus: Path) -> None:
    source = find_source(hippocampus)
    assert (source.name, len(source.pool), len(source.test)) == ("hippocampus", 150, 50)
    case = source.read(source.pool[0])
    assert case.label is not None
    assert case.label.shape == case.scan.array.shape


def test_an_experiment_runs_through_the_command_of_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.ugmcl.toy_packs import TINY, write_balls

    words = ["--methods", "ug_mcl_plus", "--labels", "2", "--steps", "2", "--precision", "fp32"]
    words += [word for setting in TINY for word in ("--set", setting)]
    balls = write_balls(tmp_path / "balls.npz")
    run = ["experiment", "run", "--pack", str(balls), "--work", str(tmp_path / "w"), "--device", "cpu"]
    assert main([*run, *words]) == 0
    assert (tmp_path / "w" / "balls_2labels_ug_mcl_plus_seed0" / "run.json").is_file()
    assert main(["experiment", "run", "--list-methods"]) == 0
    assert "ug_mcl_plus" in capsys.readouterr().out
