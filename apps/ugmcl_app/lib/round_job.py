"""round_job: what a worker needs to know to run one round, as the plain data of its job file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from .precedence import lock_file
from .registry import ModelRegistry
from .roles import RoleSplit
from .round_record import Round
from .settings import AppSettings
from .workspace import Workspace


class LabelSource(Protocol):
    """The part of the datastore that rounds use; `lib.datastore.FolderDatastore` provides it."""

    on_labels_changed: list[Any]

    def final_labels(self) -> dict[str, str]:
        """Image id -> SHA-256 of its final label's file."""

    def list_images(self) -> list[str]:
        """Ids of all usable images."""

    def image_files(self) -> dict[str, str]:
        """Path of every usable image, by id, in one go."""

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image."""

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label."""


def work_folder(workspace: Workspace) -> Path:
    """Where rounds train, one after the other; one folder for all lets a round resume its forerunner."""
    return Path(workspace.training) / "work"


def build_job(
    entry: Round,
    datastore: LabelSource,
    registry: ModelRegistry,
    roles: RoleSplit,
    workspace: Workspace,
    settings: AppSettings,
) -> dict[str, Any]:
    """The job of a round that has claimed its labels (`entry.claimed`).

    Returns:
        Plain data: `command` ("train"), `labeled` [{id, image, label, role}], `unlabeled` [{id, image}],
        `labels` (class names), `published` (checkpoint path or None), `published_version`, `workdir`,
        `tensorboard`, `preset`, `device`, `threads`, `inference_lock`
        (see `precedence`), `round_seconds` (cap of a CPU round), `seed`.
    """
    cases = _labeled_cases(entry, datastore, roles)
    images = datastore.image_files()
    pool = sorted(set(images) - set(entry.claimed))
    version = registry.published()
    return {
        "command": "train",
        "round": entry.id,
        "labeled": cases,
        "unlabeled": [{"id": image_id, "image": images[image_id]} for image_id in pool],
        "labels": list(settings.labels),
        "published": None if version is None else str(registry.path(version)),
        "published_version": version,
        "workdir": str(work_folder(workspace)),
        "tensorboard": str(Path(workspace.training) / "tensorboard" / entry.id),
        "preset": settings.preset,
        "device": settings.device,
        "threads": settings.threads,
        "inference_lock": str(lock_file(workspace.root)),
        "round_seconds": settings.round_seconds,
        "seed": int(entry.id.lstrip("r")),
    }


def _labeled_cases(entry: Round, datastore: LabelSource, roles: RoleSplit) -> list[dict[str, str]]:
    decided = roles.assign_all(entry.claimed)
    cases = []
    for image_id in sorted(entry.claimed):
        try:
            image, label = datastore.get_image_uri(image_id), datastore.get_label_uri(image_id, "final")
        except (
            Exception
        ) as error:  # the datastore's own exceptions differ; a vanished case never stops a round
            entry.set_aside[image_id] = f"it was removed as the round began ({error})"
            continue
        if not image or not label:
            entry.set_aside[image_id] = "it was removed as the round began"
            continue
        cases.append({"id": image_id, "image": str(image), "label": str(label), "role": decided[image_id]})
    return cases
