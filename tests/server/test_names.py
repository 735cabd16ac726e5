"""What a client may call an image, a tag or a file."""

import pytest
from starlette.exceptions import HTTPException

from server.names import known, safe_name, safe_tag, shown, upload_basename, upload_suffix

UNSAFE = [
    "",
    " ",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "C:\\x",
    ".hidden",
    "._case",
    "a\0b",
    "a\nb",
    "x" * 181,
]


def refused(call: object, *arguments: object) -> HTTPException:
    with pytest.raises(HTTPException) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize("name", UNSAFE, ids=repr)
def test_unsafe_names_are_refused_with_400(name: str) -> None:
    assert refused(safe_name, name, "image").status_code == 400


@pytest.mark.parametrize("name", ["case_01", "Scan 7 (b)", "größe", "a..b", "1.2.840.113"])
def test_plain_names_are_kept_as_they_are(name: str) -> None:
    assert safe_name(name, "image") == name


@pytest.mark.parametrize("tag", ["../final", "best", "", "final/.."])
def test_only_the_two_label_tags_are_kept(tag: str) -> None:
    assert refused(safe_tag, tag).status_code == 400


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("a.NII", ".nii"),
        ("b.x.nrrd", ".nrrd"),
        ("/tmp/on/the/client/a.nii.gz", ".nii.gz"),
    ],
)
def test_an_upload_gives_only_its_suffix(name: str, suffix: str) -> None:
    assert upload_suffix(name) == suffix


def test_a_windows_path_of_the_client_is_reduced_to_its_file() -> None:
    assert upload_basename("C:\\scans\\a.nii.gz") == "a.nii.gz"


@pytest.mark.parametrize("name", ["../../etc/a.nii.gz", "..\\a.nii.gz", "a\0.nii.gz", ".nii.gz", None, "///"])
def test_unsafe_file_names_are_refused_with_400(name: str | None) -> None:
    assert refused(upload_suffix, name).status_code == 400


@pytest.mark.parametrize("name", ["a.exe", "a.zip", "a", "a.nii.gz.pt", "a.bin"])
def test_files_that_are_no_images_by_name_are_refused_with_422(name: str) -> None:
    assert refused(upload_suffix, name).status_code == 422


def test_an_unknown_name_is_404_and_the_sentence_lists_the_known_ones() -> None:
    error = refused(known, "deepedit", "model", ["ugmcl", "ugmcl_uncertainty"])
    assert error.status_code == 404
    assert "'deepedit'" in error.detail
    assert "ugmcl_uncertainty" in error.detail


def test_a_client_value_in_a_sentence_is_short_and_printable() -> None:
    assert shown("a\x1b[31m\n") == "'a?[31m?'"
    assert len(shown("x" * 1000)) < 100
