"""infers: the host's inference tasks: `ugmcl`, a segmentation with its uncertainty, and
`ugmcl_uncertainty`."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from numpy.typing import NDArray

from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Predictor
from ugmcl.precision import Precision
from ugmcl.uncertainty import BAND_NAMES, bands

from .drafts import DraftStore
from .errors import Refusal, UnusableImage
from .infer_options import DEFAULT_MC_SAMPLES, InferOptions
from .maps import MapStore, StoredMap
from .registry import ModelRegistry
from .settings import AppSettings
from .volumes import read_header, read_volume, read_voxels, write_label, write_map


class InferResult(NamedTuple):
    """The files and values of one inference; the files are temporary and the caller's.

    Attributes:
        label_file: The label on the image's grid.
        params: The JSON of the reply.
        uncertainty_file: The map, if it was asked for.
    """

    label_file: Path
    params: dict[str, Any]
    uncertainty_file: Path | None = None


class PublishedModel:
    """The live model, loaded on first use and again after each publication. Thread-safe.

    Attributes:
        precision: Number format measured at start, or None while it is not known: then each load measures.
    """

    def __init__(self, registry: ModelRegistry, settings: AppSettings) -> None:
        self.precision: Precision | None = None
        self._registry = registry
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: tuple[str, Predictor] | None = None

    def get(self) -> tuple[str, Predictor] | None:
        """The live version and its predictor; None before a first model."""
        with self._lock:
            while (version := self._registry.published()) is not None:
                if self._loaded is None or self._loaded[0] != version:
                    self._loaded = None  # two models at once might not fit
                    try:
                        checkpoint = load_checkpoint(self._registry.path(version))
                    except (OSError, ValueError):
                        if self._registry.give_up(version):
                            continue  # its files were damaged: another one is live now
                        raise
                    self._loaded = (version, Predictor(checkpoint, self._settings.device, self.precision))
                return self._loaded
        return None

    def version(self, version: str) -> Predictor:
        """A predictor of any kept version; Refusal 404 for an unknown one."""
        live = self.get()
        if live is not None and live[0] == version:
            return live[1]
        return Predictor(load_checkpoint(self._registry.path(version)), self._settings.device, self.precision)


class UGMCLInfer(InferTask):  # type: ignore[misc]
    """Segments a scan with the live model and says how unsure it is.

    A request holds `image` (a file), `image_id` (its id in the datastore, absent for uploads), and the
    client's `uncertainty`, `mc_samples`, `result_extension` and `result_dtype`.
    """

    def __init__(
        self,
        model: PublishedModel,
        maps: MapStore,
        settings: AppSettings,
        labeled: Any,
        drafts: DraftStore | None = None,
    ) -> None:
        """`labeled()` counts the final labels, for the answer before a first model."""
        super().__init__(
            InferType.SEGMENTATION,
            settings.labels_map,
            3,
            "Segmentation with voxel uncertainty; learns from every submitted label and the unlabeled pool",
            {"mc_samples": DEFAULT_MC_SAMPLES},
        )
        self._model, self._maps, self._settings, self._labeled = model, maps, settings, labeled
        self._drafts = drafts

    def is_valid(self) -> bool:
        """Always: a viewer must find the task before the first model; asked to run, it then answers 409."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The host's form of `run`: label file and JSON."""
        result = self.run({**request, "uncertainty": False})
        return str(result.label_file), result.params

    def run(self, request: dict[str, Any]) -> InferResult:
        """Infer once, or answer with what the live model's draft and map of this case say.

        Raises:
            Refusal: 409 before a first model, 422 for an unusable image or parameter.
        """
        options = InferOptions.of(request)
        version, predictor = self._live()
        image, image_id = Path(request["image"]), request.get("image_id")
        start = time.perf_counter()
        if image_id is not None and not options.fresh:
            kept = self._kept(image_id, image, version, options, start)
            if kept is not None:
                return kept
        try:
            volume = read_volume(image)
        except UnusableImage as error:
            raise Refusal(422, f"The image cannot be used. {error}") from error
        loaded = time.perf_counter()
        prediction = predictor.predict(volume, uncertainty=True, mc_samples=options.mc_samples)
        assert prediction.uncertainty is not None
        assert prediction.summary is not None
        summary = prediction.summary.to_dict()
        predicted = time.perf_counter()
        if image_id is not None:
            self._maps.keep(image_id, image, prediction.uncertainty, volume.affine, version, summary)
            if self._drafts is not None:
                self._drafts.keep(image_id, image, volume, prediction, version)
        label_file, map_file = _written(options, prediction.labels, prediction.uncertainty, volume.affine)
        done = time.perf_counter()
        latencies = {
            **prediction.latencies,
            "load": round(loaded - start, 4),
            "write": round(done - predicted, 4),
            "total": round(done - start, 4),
        }
        return InferResult(label_file, self.params(version, summary, latencies, image_id), map_file)

    def _kept(
        self, image_id: str, image: Path, version: str, options: InferOptions, start: float
    ) -> InferResult | None:
        """The same answer without asking the model; None where it is not kept, whole and of this model."""
        draft = self._drafts.find(image_id, image) if self._drafts is not None else None
        stored = self._maps.find(image_id, image)
        if draft is None or stored is None or {draft.model_version, stored.model_version} != {version}:
            return None
        if stored.mc_samples != options.mc_samples:
            return None
        try:
            labels = draft.segmentation()
            values = np.asarray(read_voxels(stored.path)[0]) if options.uncertainty else None
        except (OSError, ValueError, KeyError):  # damaged, or replaced at this moment: it is made again
            return None
        loaded = time.perf_counter()
        label_file, map_file = _written(options, labels, values, draft.affine)
        done = time.perf_counter()
        latencies = {
            **dict.fromkeys(("preprocess", "inference", "postprocess"), 0.0),
            "load": round(loaded - start, 4),
            "write": round(done - loaded, 4),
            "total": round(done - start, 4),
        }
        return InferResult(label_file, self.params(version, stored.summary, latencies, image_id), map_file)

    def params(
        self, version: str, summary: dict[str, Any], latencies: dict[str, float], image_id: str | None
    ) -> dict[str, Any]:
        """The JSON of a reply; latencies in seconds."""
        url = None if image_id is None else f"/uncertainty/{quote(image_id, safe='')}"
        return {
            "model_version": version,
            "label_names": self.labels,
            "latencies": latencies,
            "uncertainty": {**summary, "url": url},
        }

    def keep_map(self, image_id: str, image: Path, version: str | None = None) -> StoredMap:
        """The map of a case by a version (the live one): the kept one, or computed and kept.

        Raises:
            Refusal: 404 for an unknown version, 409 before a first model, 422 for an unusable image.
        """
        wanted = version or self._live()[0]
        kept = self._maps.find(image_id, image)
        if kept is not None and kept.model_version == wanted:
            return kept
        predictor = self._model.version(wanted)
        try:
            volume = read_volume(image)
        except UnusableImage as error:
            raise Refusal(422, f"The image cannot be used. {error}") from error
        prediction = predictor.predict(volume, uncertainty=True, mc_samples=DEFAULT_MC_SAMPLES)
        assert prediction.uncertainty is not None
        assert prediction.summary is not None
        summary = prediction.summary.to_dict()
        return self._maps.keep(image_id, image, prediction.uncertainty, volume.affine, wanted, summary)

    def _live(self) -> tuple[str, Predictor]:
        live = self._model.get()
        if live is None:
            labeled, needed = int(self._labeled()), self._settings.min_labels
            here = f"{labeled} final label{' is' if labeled == 1 else 's are'} here"
            then = (
                f"and {needed} needed; submit more"
                if labeled < needed
                else "which is enough; GET /rounds shows whether it waits, runs or failed"
            )
            raise Refusal(
                409,
                f"There is no model yet; the first round makes one. {here}, {then}.",
                labeled=labeled,
                labels_needed=needed,
            )
        return live


class UncertaintyBandsInfer(InferTask):  # type: ignore[misc]
    """The uncertainty as label values, so that a viewer without any plug-in of ours shows it."""

    def __init__(self, segmentation: UGMCLInfer, maps: MapStore) -> None:
        super().__init__(
            InferType.SEGMENTATION,
            {name: value + 1 for value, name in enumerate(BAND_NAMES)},
            3,
            "Voxel uncertainty of the live model in three bands; delete these segments before submitting",
            {"mc_samples": DEFAULT_MC_SAMPLES},
        )
        self._segmentation, self._maps = segmentation, maps

    def is_valid(self) -> bool:
        """Always; see `UGMCLInfer.is_valid`."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The host's form of `run`: label file and JSON."""
        result = self.run({**request, "uncertainty": False})
        return str(result.label_file), result.params

    def run(self, request: dict[str, Any]) -> InferResult:
        """Infer once, or turn the map kept of this case by the live model into bands; raises as
        `UGMCLInfer.run`."""
        options = InferOptions.of(request)
        version, _ = self._segmentation._live()
        image, image_id = Path(request["image"]), request.get("image_id")
        start = time.perf_counter()
        ask_anew = image_id is None or options.fresh
        kept = None if ask_anew else self._maps.find(str(image_id), image)
        values: NDArray[Any] | None = None
        if kept is not None and (kept.model_version, kept.mc_samples) == (version, options.mc_samples):
            with contextlib.suppress(UnusableImage):  # another inference has just replaced it: made again
                values = read_voxels(kept.path)[0]
        if kept is not None and values is not None:
            seconds = {"load": round(time.perf_counter() - start, 4)}
            params = self._segmentation.params(version, kept.summary, seconds, image_id)
        else:
            done = self._segmentation.run({**request, "uncertainty": True, "result_extension": ".nii"})
            assert done.uncertainty_file is not None
            values = read_voxels(done.uncertainty_file)[0]
            remove_result(done)
            params = done.params
        affine = read_header(image).affine
        label_file, map_file = _written(options, bands(values), np.asarray(values), affine)
        params["latencies"]["total"] = round(time.perf_counter() - start, 4)
        return InferResult(label_file, {**params, "label_names": self.labels}, map_file)


def remove_result(result: InferResult) -> None:
    """Delete the files of a result that nobody is sent."""
    for file in (result.label_file, result.uncertainty_file):
        if file is not None:
            file.unlink(missing_ok=True)


def _written(
    options: InferOptions, label: NDArray[Any], values: NDArray[Any] | None, affine: NDArray[np.float64]
) -> tuple[Path, Path | None]:
    """A label and, if it is wanted, a map as files outside the project, which the reply's sender removes;
    neither is left behind when one cannot be written."""
    with contextlib.ExitStack() as unfinished:
        label_file = _temporary_file(options.extension, unfinished)
        write_label(label_file, label, affine, options.dtype)
        map_file = None
        if options.uncertainty and values is not None:
            map_file = _temporary_file(options.extension, unfinished)
            write_map(map_file, values, affine)
        unfinished.pop_all()
    return label_file, map_file


def _temporary_file(extension: str, unfinished: contextlib.ExitStack) -> Path:
    handle, name = tempfile.mkstemp(prefix="ugmcl-", suffix=extension)
    os.close(handle)
    path = Path(name)
    unfinished.callback(path.unlink, missing_ok=True)
    return path
