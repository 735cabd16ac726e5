"""main: the MONAI Label app. Wires floor 2 together; everything it does is in `lib`."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp

import lib.host
import lib.stock_infer
import ugmcl
from lib.checks import safe_tag
from lib.datastore import FolderDatastore
from lib.drafts import DraftStore
from lib.errors import Refusal
from lib.exports import Exports
from lib.infers import PublishedModel, UGMCLInfer, UncertaintyBandsInfer, remove_result
from lib.job_queue import JobQueue
from lib.maps import MapStore
from lib.offers import CaseOffers, reader_of
from lib.pacs_answers import PacsAnswers, open_pacs
from lib.precedence import inference, lock_file
from lib.precision_probe import probe_precision
from lib.registry import ModelRegistry
from lib.review import Review
from lib.review_history import ReviewHistory
from lib.rounds import RoundQueue
from lib.scores import ScoreBoard
from lib.settings import AppSettings
from lib.strategies import DEFAULT_STRATEGY, make_strategies
from lib.trainers import UGMCLTrain
from lib.webhooks import SECRET, Webhooks
from lib.worklist import Worklist
from lib.workspace import Workspace, is_web_address

logger = logging.getLogger(__name__)

# Their INFO lines quote request bodies, and so what a viewer sends along about patients and readers.
_TALKATIVE = ("endpoints.datastore", "endpoints.infer", "endpoints.activelearning", "endpoints.session")


class UGMCLApp(PacsAnswers, MONAILabelApp):  # type: ignore[misc]
    """Uncertainty-guided mutual consistency learning as a MONAI Label app.

    Attributes:
        settings: The parsed `--conf` options.
        workspace: Where this project's state lives.
        registry, scores, rounds, maps: Models, case scores, training rounds, uncertainty maps.
        offers: Which reader gets which case next.
        worklist: The cases page by page.
        exports, jobs: Data sets made of the labels; all that waits and runs.
        drafts: What a model last said of each case, for looking at.
        review, history: What the review page shows of a case, and of the project so far.
        pacs: What connects the project to its PACS; None where the studies are a folder.
        labels_map: `{name: value}` of the project's classes.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str] | None) -> None:
        self.settings = AppSettings.from_conf(conf)
        self.labels_map = self.settings.labels_map
        for name in _TALKATIVE:
            logging.getLogger(f"monailabel.{name}").setLevel(logging.WARNING)
        self._require_folder(studies)
        self.workspace = Workspace.of(studies, self.settings.workspace, self.settings.database)
        self.registry = ModelRegistry(self.workspace)
        self.workspace.bind(studies, self.settings.labels, in_use=bool(self.registry.list()))
        self.scores = ScoreBoard(self.workspace)
        self.maps = MapStore(self.workspace)
        self.drafts = DraftStore(self.workspace)
        self.model = PublishedModel(self.registry, self.settings)
        self._initialized = False
        super().__init__(
            app_dir,
            studies,
            conf or {},
            name="UG-MCL",
            description="Segmentation that learns from every label and shows where it is unsure",
            version=getattr(ugmcl, "__version__", "0.1.0"),
            labels=self.labels_map,
        )
        lib.host.install(self)
        lib.stock_infer.install()

    # --- what the host asks for at construction
    # --------------------------------------------------------------

    def init_datastore(self) -> FolderDatastore:
        """The studies: a folder, or a PACS."""
        self.pacs = open_pacs(self.studies, self.workspace, self.settings)
        datastore = FolderDatastore(
            self.pacs.source if self.pacs else self.studies,
            self.workspace,
            self.labels_map,
            allow_empty=self.settings.allow_empty_labels,
            agreement_dice=self.settings.agreement_dice,
        )
        if self.pacs is not None:
            self.pacs.attach(datastore)
        self.offers = CaseOffers(
            datastore, self.workspace.database, self.settings.lease_s, self.settings.diverse_batch
        )
        self.worklist = Worklist(self.workspace.database, self.scores, datastore.dicom_uids)
        self.webhooks = self._open_webhooks(datastore)
        self.rounds = RoundQueue(datastore, self.registry, self.workspace, self.scores, self.settings)
        self.exports = Exports(datastore, self.workspace, self.maps, self.scores)
        self.jobs = JobQueue(self.workspace.database, self.rounds, self.exports)
        self.review = Review(datastore, self.workspace.database, self.drafts)
        self.history = ReviewHistory(self.rounds, self.registry, self.workspace.database)
        return datastore

    def init_infers(self) -> dict[str, Any]:
        """`ugmcl` and `ugmcl_uncertainty`."""
        segmentation = UGMCLInfer(
            self.model,
            self.maps,
            self.settings,
            lambda: len(self.datastore().final_labels()),
            self.drafts,
        )
        return {"ugmcl": segmentation, "ugmcl_uncertainty": UncertaintyBandsInfer(segmentation, self.maps)}

    def init_trainers(self) -> dict[str, Any]:
        """`ugmcl`."""
        return {"ugmcl": UGMCLTrain(self.rounds)}

    def init_strategies(self) -> dict[str, Any]:
        """`most_uncertain`, `random` and `first`."""
        return dict(make_strategies(self.scores))

    # --- life
    # ------------------------------------------------------------------------------------------------

    def on_init_complete(self) -> None:
        """Start what runs beside the requests; called by the server, not in the host's subprocesses."""
        super().on_init_complete()
        self.datastore().start()
        if self.pacs is not None:
            self.pacs.start()
        if self.webhooks is not None:
            self.webhooks.start()
        self.rounds.start()
        self.exports.start()
        if self.model.precision is None:
            probe = threading.Thread(target=self._measure_precision, daemon=True, name="precision-probe")
            probe.start()
            atexit.register(probe.join, 60)  # a thread inside torch while Python ends aborts the process
        self._initialized = True

    def stop(self) -> None:
        """End the background threads; labels and training state are kept."""
        self._initialized = False
        self.rounds.stop()
        self.exports.stop()
        self.datastore().stop()
        for part in (self.webhooks, self.pacs):
            if part is not None:
                part.stop()
        self.workspace.database.close()

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be taken, and why not; needs no model."""
        if not self._initialized:
            return False, "The app is still starting."
        if self.pacs is None and not os.access(self.studies, os.R_OK | os.X_OK):
            return False, "The studies folder cannot be read; check the disk or network mount."
        return True, "ready"

    def info(self) -> dict[str, Any]:
        """The host's information for viewers, plus `model_version`, `precision`, and what was mended."""
        precision = self.model.precision
        return {
            **super().info(),
            "model_version": self.registry.published(),
            "precision": precision.to_dict() if precision else None,
            "default_strategy": DEFAULT_STRATEGY,
            "repairs": [*self.datastore().repairs, *self.registry.repairs, *self.rounds.repairs],
            "pacs": self.pacs.state() if self.pacs else None,
            "webhooks": self.webhooks.state() if self.webhooks else None,
        }

    # --- requests
    # --------------------------------------------------------------------------------------------

    def infer(self, request: dict[str, Any], datastore: FolderDatastore | None = None) -> dict[str, Any]:
        """Segment an image of the datastore (`image` is its id) or an uploaded file (`image` is its path).

        Returns:
            `file` and `label` (the result's path; with `save_label`, `label` is the image id), `tag`,
            `params`, and `uncertainty_file` (a path, or None). The files are temporary.

        Raises:
            Refusal: 404 for an unknown model or image, 409 before a first model, 422 for the rest.
        """
        task = self._infers.get(request.get("model"))
        if task is None:
            known = ", ".join(self._infers)
            raise Refusal(
                404, f"There is no model {str(request.get('model'))[:80]!r} here; available: {known}."
            )
        image_id, path = self._image(request.get("image"))
        save = request.get("save_label", False) in (True, "true")
        push = self._wants_push(request, image_id, task)
        if save and (image_id is None or safe_tag(request.get("label_tag", "original")) != "original"):
            raise Refusal(422, "Only results for images of the project can be saved, and only as 'original'.")
        with inference(lock_file(self.workspace.root)):
            result = task.run({**request, "image": str(path), "image_id": image_id})
        label = str(result.label_file)
        try:
            if push is not None and image_id is not None:
                result.params.update(self._push(push, image_id, path, result))
            if save and task is self._infers["ugmcl"]:
                params = {"model": request["model"], "params": result.params}
                label = self.datastore().save_label(image_id, label, "original", params)
        except BaseException:  # nobody will send these files, and remove them then
            remove_result(result)
            raise
        return {
            "label": label,
            "tag": "original",
            "file": str(result.label_file),
            "params": result.params,
            "uncertainty_file": str(result.uncertainty_file) if result.uncertainty_file else None,
        }

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next case to label; empty when every case is labeled.

        Returns:
            `id`, `path`, `score`, `model_version`, and `lease`: until when (`expires_at`, seconds since 1970)
            it is the reader's alone, or None.
        """
        name = request.get("strategy") or DEFAULT_STRATEGY
        strategy = self._strategies.get(name)
        if strategy is None:
            known = ", ".join(self._strategies)
            raise Refusal(404, f"There is no strategy {str(name)[:80]!r} here; available: {known}.")
        offer = self.offers.next(reader_of(request), name, strategy.order)
        if offer is None:
            return {}
        score = self.scores.get(offer.id)
        return {
            "id": offer.id,
            "path": self.datastore().get_image_uri(offer.id),
            "score": score.score if score else None,
            "model_version": score.model_version if score else None,
            "lease": None if offer.expires_at is None else {"expires_at": offer.expires_at},
        }

    def reader(self, request: dict[str, Any]) -> str | None:
        """Who asks, under the name that leases have; None: nobody said."""
        return reader_of(request) or None

    def uncertainty_map(
        self, image_id: str, version: str | None = None, suffix: str = ".nii.gz"
    ) -> tuple[Path, str]:
        """The uncertainty map of a case as a kept file, and the model version that made it.

        Args:
            image_id: A case of this project.
            version: A kept model version; None: the live one.
            suffix: `.nii.gz` or `.nrrd`.

        Raises:
            Refusal: 404 for an unknown image or version, 409 before a first model, 422 for an unusable image.
        """
        path = self.datastore().image_file(image_id)
        with inference(lock_file(self.workspace.root)):
            kept = self._infers["ugmcl"].keep_map(image_id, path, version)
        if suffix == ".nrrd":
            return self.maps.as_nrrd(image_id), kept.model_version
        return kept.path, kept.model_version

    def draft(self, image_id: str) -> None:
        """Let the live model look at a case anew, for the review page.

        Raises:
            Refusal: 404 for an unknown image, 409 before a first model, 422 for an unusable image.
        """
        path = self.datastore().image_file(image_id)
        with inference(lock_file(self.workspace.root)):
            result = self._infers["ugmcl"].run({"image": str(path), "image_id": image_id})
        remove_result(result)

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """Nothing to do: the datastore itself tells the round queue, whatever the route a label came by."""

    # --- helpers
    # ---------------------------------------------------------------------------------------------

    def _image(self, image: Any) -> tuple[str | None, Path]:
        """The id and path of a request's image; no id for an upload or a session's image."""
        if isinstance(image, str) and self.datastore().has_image(image):
            return image, self.datastore().image_file(image)
        if isinstance(image, str) and self._is_uploaded(Path(image)):
            return None, Path(image)
        self.datastore().get_image_info(str(image))  # says 404, and why
        raise Refusal(404, "There is no such image in this project.")

    def _is_uploaded(self, path: Path) -> bool:
        """Whether a path is a file that a server received: in the temporary folder or the sessions'
        folder."""
        if not path.is_absolute() or path.is_symlink() or not path.is_file():
            return False
        roots = [tempfile.gettempdir(), *([self._sessions.store_path] if self._sessions else [])]
        return any(path.resolve().is_relative_to(Path(root).resolve()) for root in roots)

    def _open_webhooks(self, datastore: FolderDatastore) -> Webhooks | None:
        if not self.settings.webhook:
            return None
        secret = os.environ.get(SECRET, "")
        return Webhooks(self.settings.webhook, secret, self.workspace, datastore, self.registry)

    def _measure_precision(self) -> None:
        self.model.precision = probe_precision(self.settings, self.datastore())

    @staticmethod
    def _require_folder(studies: str) -> None:
        if not is_web_address(studies) and not Path(studies).expanduser().is_dir():
            raise ValueError(f"There is no studies folder {studies}; create it and put the scans into it.")
