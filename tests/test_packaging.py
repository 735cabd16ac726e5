"""What an installation carries, and that the start-up line reaches it in both kinds of install."""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PTH = "ugmcl_assist_alias.pth"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads: setuptools leaves an egg-info and a build folder beside it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("apps", "server", "sample_data", "buildtools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, where nothing of ours has run but the `.pth` line."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


def build(checkout: Path, hook: str, out: Path) -> zipfile.ZipFile:
    """Call one hook of our build backend as a front end does, in a process of its own."""
    out.mkdir()
    code = (
        f"import sys; sys.path.insert(0, 'buildtools'); import pth_backend; pth_backend.{hook}({str(out)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_wheel_carries_the_packages_and_the_start_up_line(checkout: Path, tmp_path: Path) -> None:
    with build(checkout, "build_wheel", tmp_path / "wheel") as wheel:
        top = {name.partition("/")[0] for name in wheel.namelist()}
        assert wheel.read(PTH) == b"import pydicom_alias\n"
    assert {"ugmcl", "server", "sample_data", "pydicom_alias.py", PTH} <= top
    assert not top & {"lib", "main.py", "tests", "apps", "buildtools"}


def test_wheel_carries_the_templates_and_the_style_of_the_review_page(checkout: Path, tmp_path: Path) -> None:
    with build(checkout, "build_wheel", tmp_path / "wheel") as wheel:
        carried = {name for name in wheel.namelist() if name.startswith("server/review/")}
    folder = ROOT / "server" / "review"
    needed = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in needed if "__pycache__" not in name} <= carried


def test_editable_wheel_carries_the_start_up_line_and_its_module(checkout: Path, tmp_path: Path) -> None:
    with build(checkout, "build_editable", tmp_path / "editable") as wheel:
        assert wheel.read(PTH) == b"import pydicom_alias\n"
        # The editable finder knows our packages only, so the module has to be in the wheel itself.
        assert wheel.read("pydicom_alias.py") == (ROOT / "apps/ugmcl_app/pydicom_alias.py").read_bytes()


def test_wheel_record_matches_its_files(checkout: Path, tmp_path: Path) -> None:
    with build(checkout, "build_wheel", tmp_path / "wheel") as wheel:
        (record,) = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
        rows = [line.rsplit(",", 2) for line in wheel.read(record).decode().splitlines()]
        assert {row[0] for row in rows} == {name for name in wheel.namelist() if not name.endswith("/")}
        for name, digest, size in rows:
            if name != record:
                content = wheel.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={expected}", len(content))


def test_stock_host_imports_beside_pydicom_3(tmp_path: Path) -> None:
    # A bare interpreter, as `python -m monailabel.main` is: nothing of ours has run but the .pth line.
    code = "import sys; assert 'pydicom' not in sys.modules; import pydicom_seg; print(pydicom_seg.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "pydicom_seg", done.stderr


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [project["project"]["dependencies"], project["build-system"]["requires"]]
    groups += project["project"]["optional-dependencies"].values()
    return {normal(re.split(r"[<>=!~ \[;]", entry)[0]) for group in groups for entry in group}


def test_every_direct_dependency_is_pinned() -> None:
    assert direct_dependencies() <= set(pinned())


def test_the_host_and_all_it_requires_are_pinned() -> None:
    needed = {normal(re.split(r"[<>=!~ \[;(]", entry)[0]) for entry in requires("monailabel") or []}
    assert needed <= set(pinned())


def test_pins_carry_no_local_version() -> None:
    # `2.13.0+cpu` exists on one index only; `==2.13.0` is met by every build of that release.
    assert not [name for name, version in pinned().items() if "+" in version]


def test_torchvision_pin_is_the_release_made_for_the_torch_pin() -> None:
    wanted = [entry for entry in requires("torchvision") or [] if entry.startswith("torch ")]
    assert pinned()["torch"] in wanted[0]


def test_build_requirement_and_pin_of_setuptools_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"]["requires"] == [f"setuptools=={pinned()['setuptools']}"]


def test_pins_accept_the_python_of_debian_12() -> None:
    # 3.11.2; a single pin that asks for a later patch release sends pip's resolver round in circles there.
    refusing = [
        f"{found.name} {found.version}"
        for found in distributions()
        if pinned().get(normal(found.name)) == found.version
        and not SpecifierSet(found.metadata.get("Requires-Python") or "").contains("3.11.2")
    ]
    assert not refusing
