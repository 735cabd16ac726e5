"""Roles: first three train, then every fourth validates, for good."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lib.roles import RoleSplit
from lib.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".ugmcl")


def test_the_first_three_train_then_every_fourth_validates(workspace: Workspace) -> None:
    split = RoleSplit(workspace)
    roles = [split.assign(f"case{number}") for number in range(1, 13)]
    assert [number for number, role in enumerate(roles, start=1) if role == "validate"] == [4, 8, 12]


def test_cases_found_together_are_decided_in_sorted_order(workspace: Workspace) -> None:
    roles = RoleSplit(workspace).assign_all(["d", "b", "a", "c"])
    assert roles == {"a": "train", "b": "train", "c": "train", "d": "validate"}


@pytest.mark.parametrize("seed", range(5))
def test_no_case_ever_changes_its_role(workspace: Workspace, seed: int) -> None:
    dice = random.Random(seed)
    split, seen = RoleSplit(workspace), dict[str, str]()
    for _ in range(60):
        if dice.random() < 0.2:
            split = RoleSplit(workspace)
        for image_id, role in split.assign_all([f"c{dice.randrange(30)}" for _ in range(3)]).items():
            assert seen.setdefault(image_id, role) == role
    assert split.roles() == seen
    assert list(seen.values()).count("validate") == len(seen) // 4
