"""The rounds, models, roles and maps of a workspace of an earlier version are taken over, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lib import model_folders
from lib.maps import MapStore
from lib.pool import Signature
from lib.registry import ModelRegistry
from lib.roles import RoleSplit
from lib.round_adoption import adopt_rounds
from lib.round_record import Round
from lib.round_store import RoundStore
from lib.volumes import write_map
from lib.workspace import Workspace
from tests.app.round_support import tiny_checkpoint

ROLES = {"b": "train", "a": "train", "d": "train", "c": "validate"}


def make_earlier_workspace(scans: Path, workspace: Workspace) -> list[str]:
    """As the version before left it: rounds done, running (asked for) and waiting; returns its versions."""
    staged = [
        model_folders.stage(workspace.models, tiny_checkpoint(number), number, f"r000{number}", None, {})
        for number in (1, 2)
    ]
    versions = [one.version for one in staged]
    entries = [
        {"version": one.version, "round": one.round, "metrics": None, "created_at": one.created_at}
        for one in staged
    ]
    listed = {"published": versions[0], "count": 4, "versions": entries}
    workspace.models_file.write_text(json.dumps(listed))
    done = Round(
        "r0001", "done", ["a"], model_version=versions[0], promoted=True, claimed={"a": "1"}, read={"a": "1"}
    )
    newer = Round("r0002", "done", ["a", "b"], claimed={"a": "1"}, read={"a": "1", "b": "2"})
    running = Round("r0003", "running", ["a"], requested=True, started_at=done.created_at)
    rounds = {"count": 3, "rounds": [entry.to_dict() for entry in (done, newer, running)]}
    workspace.rounds_file.write_text(json.dumps(rounds))
    workspace.split_file.write_text(json.dumps({"roles": ROLES}))
    image = scans / "a.nii.gz"
    described: dict[str, Any] = {
        "id": "a", "model_version": versions[0], "mc_samples": 8, "seed": 0, "summary": {"score": 0.5},
        "image": list(Signature.of(image) or ()),
    }  # fmt: skip
    write_map(workspace.maps / "a.nii.gz", np.full((4, 4, 4), 0.25, np.float32), np.eye(4))
    (workspace.maps / "a.json").write_text(json.dumps(described))
    return versions


def test_rounds_models_roles_and_maps_of_an_earlier_version_are_taken_over(
    scans: Path, workspace: Workspace
) -> None:
    versions = make_earlier_workspace(scans, workspace)
    for _ in range(2):  # a second start finds nothing left to take over
        registry, maps, roles = ModelRegistry(workspace), MapStore(workspace), RoleSplit(workspace)
        adopt_rounds(workspace)
        store = RoundStore(workspace)
        assert registry.repairs == []
        assert [entry["version"] for entry in registry.list()] == versions
        assert registry.published() == versions[0]
        assert list(roles.roles().items()) == list(ROLES.items())
        kept = maps.find("a", scans / "a.nii.gz")
        assert kept is not None
        assert (kept.path.name, kept.model_version, kept.summary) == ("a.nii.gz", versions[0], {"score": 0.5})
        assert [entry.status for entry in store.rounds()] == ["done", "done", "failed", "queued"]
        assert store.learned() == {"a": "1", "b": "2"}
        assert store.rounds()[0].read == {}
        assert store.rounds()[2].reason == "interrupted: the server stopped"
        assert store.rounds()[3].requested, "somebody had asked for the round that was cut off"
    retired = {path.name for path in (workspace.root / "before_catalogue").rglob("*.json")}
    assert retired == {"models.json", "rounds.json", "split.json", "a.json"}
    assert registry.add(tiny_checkpoint(9), "r0004", None, {}).startswith("v0005-"), "a number is used once"
    assert roles.assign("e") == "train"


def test_a_lost_catalogue_finds_versions_rounds_and_roles_again_in_the_records_of_the_models(
    scans: Path, project: Workspace
) -> None:
    data = [{"id": i, "label_sha256": i * 3, "role": role} for i, role in ROLES.items()]
    record = {"data": data, "steps": 7, "seconds": 1.5, "unlabeled": 2, "reason": "good"}
    version = ModelRegistry(project).add(tiny_checkpoint(1), "r0006", None, record)
    project.database.close()
    project.catalogue_file.write_bytes(b"no database" * 500)
    again = Workspace(project.root)
    assert ModelRegistry(again).published() == version
    assert RoleSplit(again).roles() == ROLES
    store = RoundStore(again)
    [entry] = store.rounds()
    assert (entry.id, entry.status, entry.labeled_ids, entry.model_version) == (
        "r0006", "done", ["a", "b", "c", "d"], version,
    )  # fmt: skip
    assert store.learned() == {i: i * 3 for i in ROLES}
    assert store.request("more").id == "r0007"
    again.database.close()
