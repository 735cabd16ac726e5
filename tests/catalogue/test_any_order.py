"""Whatever is submitted, edited, deleted and restarted in whatever order: the catalogue tells what is so, and
its history only grows."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from lib.datastore import FolderDatastore
from lib.errors import Refusal
from lib.workspace import Workspace
from tests.app.scan_support import scan, write_nifti
from tests.catalogue.label_support import ONE, final_file, label_file
from tests.catalogue.postgresql import new_database

CASES = st.sampled_from(["a", "b"])
VARIANTS = st.integers(0, 2)
SERVERS = st.integers(0, 1)


class Project(RuleBasedStateMachine):
    """Two servers on one folder, and a model of it: which label is in effect, and how often one came."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.root = Path(self._temporary.name)
        self.scans = self.root / "scans"
        self.scans.mkdir()
        for index, name in enumerate("ab"):
            write_nifti(self.scans / f"{name}.nii.gz", scan(seed=index))
        self.files = [label_file(self.root, variant) for variant in range(3)]
        self.stores = [self.open(), self.open()]
        self.present: dict[str, str] = {}  # case -> SHA-256 of the file that is in the folder
        self.versions: dict[str, list[str]] = {"a": [], "b": []}  # uids, in order of their coming

    def open(self) -> FolderDatastore:
        return FolderDatastore(self.scans, Workspace.of(self.scans, database_url=self.url), ONE)

    def look(self) -> None:
        for store in self.stores:
            store.refresh()

    @rule(server=SERVERS, case=CASES, variant=VARIANTS, reader=st.sampled_from(["ann", "bob"]))
    def submit(self, server: int, case: str, variant: int, reader: str) -> None:
        self.stores[server].save_label(case, str(self.files[variant]), "final", {"client_id": reader})
        self.present[case] = hashlib.sha256(final_file(self.scans, case).read_bytes()).hexdigest()
        assert self.stores[1 - server].get_label_info(case, "final")["client_id"] == reader

    @rule(server=SERVERS, case=CASES)
    def remove(self, server: int, case: str) -> None:
        if case in self.present:
            self.stores[server].remove_label(case, "final")
            del self.present[case]
            return
        with pytest.raises(Refusal, match="no label with the tag"):
            self.stores[server].remove_label(case, "final")

    @rule(case=CASES, variant=VARIANTS)
    def put_into_the_folder(self, case: str, variant: int) -> None:
        final_file(self.scans, case).write_bytes(self.files[variant].read_bytes())
        self.present[case] = hashlib.sha256(self.files[variant].read_bytes()).hexdigest()
        self.look()

    @rule(case=CASES)
    def delete_in_the_folder(self, case: str) -> None:
        final_file(self.scans, case).unlink(missing_ok=True)
        self.present.pop(case, None)
        self.look()

    @rule(case=CASES)
    def take_the_scan_away_and_back(self, case: str) -> None:
        path = self.scans / f"{case}.nii.gz"
        path.rename(path.with_suffix(".away"))
        self.look()
        assert case not in self.stores[0].list_images()
        assert case not in self.stores[0].final_labels()
        path.with_suffix(".away").rename(path)
        self.look()

    @rule(server=SERVERS)
    def restart(self, server: int) -> None:
        self.stores[server]._database.close()
        self.stores[server] = self.open()
        assert self.stores[server].repairs == []

    @invariant()
    def every_server_tells_what_is_in_the_folder(self) -> None:
        for store in getattr(self, "stores", []):
            assert store.final_labels() == self.present
            assert store.get_labeled_images() == sorted(self.present)
            assert list(store.unlabeled_in_order("rank")) == sorted({"a", "b"} - set(self.present))
            assert store.status()["completed"] == len(self.present)
            assert store.quarantined() == []

    @invariant()
    def the_history_only_grows_and_one_version_is_in_effect(self) -> None:
        for case, before in getattr(self, "versions", {}).items():
            versions: list[dict[str, Any]] = self.stores[0].label_history(case)
            uids = [version["uid"] for version in versions]
            assert uids[: len(before)] == before
            self.versions[case] = uids
            active = [version["sha256"] for version in versions if version["state"] == "active"]
            assert active == ([self.present[case]] if case in self.present else [])
            assert all((v["ended_at"] is None) == (v["state"] in ("active", "absent")) for v in versions)

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store._database.close()
        if hasattr(self, "_temporary"):
            self._temporary.cleanup()


# Real files and transactions: a few runs of some steps in each build, others the next time.
FEW = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_any_order_of_events_leaves_the_catalogue_true() -> None:
    run_state_machine_as_test(Project, settings=FEW)  # type: ignore[no-untyped-call]


def test_any_order_of_events_leaves_the_catalogue_true_on_postgresql(postgresql_server: str) -> None:
    class OnPostgresql(Project):
        def open(self) -> FolderDatastore:
            if not self.url:
                self.url = new_database(postgresql_server)
            return super().open()

    run_state_machine_as_test(OnPostgresql, settings=FEW)  # type: ignore[no-untyped-call]
