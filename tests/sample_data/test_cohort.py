"""The cohort on disk: what lies where, that it is the same every time, and that nothing half-made is left."""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sample_data import CohortError, generate
from sample_data.__main__ import main as sample_data_main


def digests(folder: Path) -> dict[str, str]:
    """Content hash of every file under a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def processor_seconds() -> float:
    """Processor time of the workers that have ended; unlike the clock, it does not count other programs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default cohort, with the processor seconds it took in a file beside it."""
    folder = tmp_path_factory.mktemp("sample")
    start = processor_seconds()
    generate(folder / "cohort")
    (folder / "seconds").write_text(str(processor_seconds() - start))
    return folder / "cohort"


def test_default_cohort_has_24_scans_4_labels_and_6_held_out_cases(cohort: Path) -> None:
    assert len(list((cohort / "studies").glob("*.nii.gz"))) == 24
    assert len(list((cohort / "studies/labels/final").glob("*.nii.gz"))) == 4
    assert len(list((cohort / "reference/labels").glob("*.nii.gz"))) == 24
    assert len(list((cohort / "reference/heldout/images").glob("*.nii.gz"))) == 6
    assert len(list((cohort / "reference/heldout/labels").glob("*.nii.gz"))) == 6


def test_default_cohort_takes_under_a_minute_of_one_core_and_60_megabytes(cohort: Path) -> None:
    assert float((cohort.parent / "seconds").read_text()) < 60
    assert sum(path.stat().st_size for path in cohort.rglob("*") if path.is_file()) < 60e6


def test_labels_under_studies_are_only_those_of_the_labeled_cases(cohort: Path) -> None:
    references = {digest for name, digest in digests(cohort / "reference").items() if "labels" in name}
    found = {name for name, digest in digests(cohort / "studies").items() if digest in references}
    assert found == {f"labels/final/la_{number:03d}.nii.gz" for number in range(1, 5)}
    for name in found:
        assert (cohort / "reference/labels" / Path(name).name).read_bytes() == (
            cohort / "studies" / name
        ).read_bytes()


def test_held_out_cases_are_not_among_the_studies(cohort: Path) -> None:
    held_out = set(digests(cohort / "reference/heldout/images").values())
    assert not held_out & set(digests(cohort / "studies").values())


def test_every_label_lies_on_its_scans_grid(cohort: Path) -> None:
    for scan in sorted((cohort / "studies").glob("*.nii.gz")):
        image, label = nib.load(scan), nib.load(cohort / "reference/labels" / scan.name)
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert label.get_data_dtype() == np.uint8


def test_orientations_grids_and_veins_vary(cohort: Path) -> None:
    drawn = json.loads((cohort / "cohort.json").read_text())["cases_drawn"].values()
    assert len({case["orientation"] for case in drawn}) >= 8
    assert {len(case["veins"]) for case in drawn} == {3, 4, 5}
    assert {case["protocol"] for case in drawn} == {"late enhancement", "angiography", "steady state"}
    assert any(case["oblique_degrees"] > 5 for case in drawn)
    assert any(case["oblique_degrees"] == 0 for case in drawn)
    assert len({tuple(case["shape"]) for case in drawn}) >= 20
    assert all(1.1 <= size <= 2.1 for case in drawn for size in case["spacing_mm"])


def test_orientation_written_is_the_orientation_drawn(cohort: Path) -> None:
    drawn = json.loads((cohort / "cohort.json").read_text())["cases_drawn"]
    for scan in sorted((cohort / "studies").glob("*.nii.gz")):
        case = drawn[scan.name.removesuffix(".nii.gz")]
        image = nib.load(scan)
        assert "".join(nib.aff2axcodes(image.affine)) == case["orientation"]
        np.testing.assert_allclose(image.header.get_zooms(), case["spacing_mm"], atol=1e-4)


def test_same_arguments_give_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    generate(tmp_path / "one", cases=3, labeled=1, heldout=1, workers=1)
    generate(tmp_path / "two", cases=3, labeled=1, heldout=1, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_another_seed_gives_other_scans(tmp_path: Path) -> None:
    generate(tmp_path / "one", cases=1, labeled=0, heldout=0, seed=1)
    generate(tmp_path / "two", cases=1, labeled=0, heldout=0, seed=2)
    assert digests(tmp_path / "one/studies") != digests(tmp_path / "two/studies")


def test_complete_cohort_is_left_alone_with_labels_saved_since(tmp_path: Path) -> None:
    generate(tmp_path / "cohort", cases=2, labeled=1, heldout=0)
    saved = tmp_path / "cohort/studies/labels/final/la_002.nii.gz"
    saved.write_bytes(b"an expert's label")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cohort").rglob("*")}
    assert generate(tmp_path / "cohort", cases=2, labeled=1, heldout=0) == tmp_path / "cohort/studies"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cohort").rglob("*")} == before


def test_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"mine")
    with pytest.raises(CohortError, match="holds no sample cohort"):
        generate(tmp_path, cases=1, labeled=0, heldout=0)
    assert digests(tmp_path).keys() == {"scan.nii.gz"}


def test_another_cohort_is_refused_naming_both(tmp_path: Path) -> None:
    generate(tmp_path / "cohort", cases=1, labeled=0, heldout=0)
    with pytest.raises(CohortError, match=r"cases 1.*cases 2"):
        generate(tmp_path / "cohort", cases=2, labeled=0, heldout=0)


def test_cohort_that_lost_a_file_is_named(tmp_path: Path) -> None:
    generate(tmp_path / "cohort", cases=1, labeled=0, heldout=0)
    (tmp_path / "cohort/studies/la_001.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"lacks studies/la_001\.nii\.gz"):
        generate(tmp_path / "cohort", cases=1, labeled=0, heldout=0)


def test_failure_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "cohort", cases=2, labeled=0, heldout=0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("cases", "labeled", "heldout"), [(0, 0, 0), (2, 3, 0), (2, -1, 0), (2, 1, -1)])
def test_impossible_numbers_are_refused_before_anything_is_written(
    tmp_path: Path, cases: int, labeled: int, heldout: int
) -> None:
    with pytest.raises(CohortError):
        generate(tmp_path / "cohort", cases=cases, labeled=labeled, heldout=heldout)
    assert list(tmp_path.iterdir()) == []


def test_command_line_says_why_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(out=tmp_path / "cohort", cases=2, labeled=3, heldout=0, seed=1)
    assert sample_data_main(args) == 2
    assert "only 2 cases" in capsys.readouterr().err
