"""The floors hold: the method knows no host, the adapters know no server, the server knows no adapter."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "apps" / "ugmcl_app"
FLOORS = {"ugmcl": APP / "ugmcl", "lib": APP / "lib", "server": ROOT / "server"}
EXPERIMENTS = {ROOT / "server" / "evaluation", ROOT / "server" / "packing"}
"""The folders that may import what the extra `experiment` installs."""
DICOM = {APP / "lib" / "dicom", APP / "lib" / "pacs"}
"""The folders that may import what the extra `dicom` installs."""
FLOOR_1_PACKAGES = {"torch", "monai", "numpy", "ugmcl"}
ABSENT_ON_FLOOR_1 = ["monailabel", "SimpleITK", "nibabel", "ignite", "fastapi", "nrrd", "scipy", "h5py"]
OURS = {"ugmcl", "lib", "server", "sample_data", "main", "pydicom_alias"}
DISTRIBUTION_OF = {"nrrd": "pynrrd", "SimpleITK": "simpleitk", "PIL": "pillow"}
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
LINES_ASKED, LINES_ALLOWED = 250, 400


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def product_files() -> list[Path]:
    folders = [*FLOORS.values(), ROOT / "sample_data"]
    return [APP / "main.py", *(file for folder in folders for file in python_files(folder))]


def imported_modules(file: Path, package: str = "") -> set[str]:
    """Absolute dotted names a file imports anywhere, in functions and `if TYPE_CHECKING` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def run_python(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(APP)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("file", python_files(FLOORS["ugmcl"]), ids=lambda file: file.stem)
def test_the_method_imports_only_torch_monai_numpy_and_the_standard_library(file: Path) -> None:
    foreign = top_level(imported_modules(file, "ugmcl")) - FLOOR_1_PACKAGES - set(sys.stdlib_module_names)
    assert not foreign


@pytest.mark.parametrize("floor", ["lib", "ugmcl"])
def test_no_lower_floor_imports_the_server(floor: str) -> None:
    guilty = [f.name for f in python_files(FLOORS[floor]) if "server" in top_level(imported_modules(f))]
    assert not guilty


def test_the_server_never_imports_the_app_folder() -> None:
    # The host unloads every `lib.*` when it loads an app: a server holding one would hold a stale copy.
    guilty = {
        f.name: sorted(found)
        for f in python_files(FLOORS["server"])
        if (found := top_level(imported_modules(f)) & {"lib", "main"})
    }
    assert not guilty


def test_every_module_of_the_method_imports_on_a_machine_without_the_host(tmp_path: Path) -> None:
    modules = [
        ".".join(f.relative_to(APP).with_suffix("").parts).removesuffix(".__init__")
        for f in python_files(FLOORS["ugmcl"])
    ]
    assert modules
    result = run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT_ON_FLOOR_1!r}))\n"
        f"for name in {modules!r}: importlib.import_module(name)\n",
        tmp_path,
    )
    assert result.returncode == 0, result.stderr


def test_the_worker_starts_without_the_host(tmp_path: Path) -> None:
    # Importing monailabel takes most of the start; a round's subprocess has no use for it.
    result = run_python("import sys; sys.modules['monailabel'] = None; import lib.worker", tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_method_has_no_import_cycles() -> None:
    files = {file.stem: file for file in python_files(FLOORS["ugmcl"]) if file.stem != "__init__"}
    needs = {
        stem: {name.split(".")[1] for name in imported_modules(file, "ugmcl") if name.startswith("ugmcl.")}
        & set(files)
        for stem, file in files.items()
    }
    while needs:
        free = {stem for stem, others in needs.items() if not others & set(needs)}
        assert free, f"these modules import each other: {sorted(needs)}"
        needs = {stem: others for stem, others in needs.items() if stem not in free}


def test_main_holds_exactly_one_direct_subclass_of_the_host_app() -> None:
    # The host takes the first class, in alphabetical order, whose direct base has this name.
    tree = ast.parse((APP / "main.py").read_text(encoding="utf-8"))
    apps = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "MONAILabelApp" for base in node.bases)
    ]
    assert apps == ["UGMCLApp"]


def test_lib_is_a_package_the_host_can_unload() -> None:
    assert (FLOORS["lib"] / "__init__.py").is_file()


def test_every_package_the_product_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(entries: list[str]) -> set[str]:
        return {re.split(r"[<>=!~ \[;]", entry)[0] for entry in entries}

    always = names(project["dependencies"])
    evaluating = always | names(project["optional-dependencies"]["experiment"])
    imaging = always | names(project["optional-dependencies"]["dicom"])
    for file in product_files():
        foreign = (
            top_level(imported_modules(file, "ugmcl")) - OURS - set(sys.stdlib_module_names) - {"__future__"}
        )
        declared = evaluating if EXPERIMENTS & set(file.parents) else always
        declared = imaging if DICOM & set(file.parents) else declared
        assert not {DISTRIBUTION_OF.get(name, name).replace("_", "-") for name in foreign} - declared, file


@pytest.mark.parametrize("file", product_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_are_named_by_their_concept(file: Path) -> None:
    assert not set(file.stem.split("_")) & EMPTY_WORDS


def test_no_module_exceeds_the_hard_length_limit() -> None:
    lines = {f.relative_to(ROOT): len(f.read_text(encoding="utf-8").splitlines()) for f in product_files()}
    for name, count in sorted(lines.items(), key=lambda item: -item[1]):
        if count > LINES_ASKED:
            print(f"{count:4d} lines, {LINES_ASKED} asked: {name}")  # shown when the test fails, or with -s
    assert max(lines.values()) <= LINES_ALLOWED, "split the longest modules listed above by concept"


def test_no_test_patches_a_module_of_the_app_by_its_name() -> None:
    """MONAI Label unloads `lib` when it loads an app; a name may then mean another one."""
    named = re.compile(r"setattr\(\s*[\"']lib\.")
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if named.search(path.read_text())
    ]
    assert found == [], "import the module and patch that one"
