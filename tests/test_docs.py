"""The docs name what exists: files, functions, settings, make targets and links."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FLOW_ROW = re.compile(r"^\| [^|]+ \| `([\w/.]+\.py)` \| `(\w+)` \|$", re.MULTILINE)


def flow_rows() -> list[tuple[str, str]]:
    return FLOW_ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_readme_has_the_three_flows() -> None:
    assert len(flow_rows()) >= 20


@pytest.mark.parametrize(("file", "name"), flow_rows())
def test_each_step_of_the_flows_names_a_definition(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, defined)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [t for t in targets if "://" not in t and not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = " ".join(re.findall(r"```bash\n.*?```|`[^`\n]+`", page.read_text(encoding="utf-8"), re.DOTALL))
    assert set(re.findall(r"(?:\n|`)make ([a-z-]+)", code)) <= targets


def test_every_app_setting_is_documented() -> None:
    from lib.settings import AppSettings

    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    missing = [field.name for field in dataclasses.fields(AppSettings) if f"| `{field.name}` |" not in page]
    assert not missing


def test_every_server_setting_is_documented() -> None:
    from server.settings import ServerSettings

    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert not [name for name in ServerSettings.model_fields if f"`UGMCL_{name.upper()}`" not in page]
