"""Pictures of cases, drawn away from the event loop and from inference, and kept while they stay true."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray

from server.names import shown
from server.refusal import refuse
from server.review import drawing
from server.slice_view import PLANES, REFERENCE, PatientAxes, cut, pixel_mm

Result = TypeVar("Result")

THUMBNAIL, SLICE = 288, 560
"""Longer sides in pixels: of a card on a dense display, and of a third of the case's page."""
KEPT_THUMBNAILS = 400
KEPT_BYTES = 256 * 2**20
"""Of the volumes of the cases looked at last: a few large scans, or dozens of small ones."""
DRAWING_THREADS = 2
LAYERS = ("image", "label", "segmentation", "uncertainty")
_drawing: anyio.CapacityLimiter | None = None


async def drawn(work: Callable[[], Result]) -> Result:
    """Run `work` on one of two threads for pictures: a page of them must not take those of inference."""
    global _drawing
    if _drawing is None:
        _drawing = anyio.CapacityLimiter(DRAWING_THREADS)
    return await anyio.to_thread.run_sync(work, limiter=_drawing)


class TurnedCase(NamedTuple):
    """A case along right, anterior, superior; all arrays are uint8 views of one shape.

    Attributes:
        spacing_mm: Voxel edge lengths.
        layers: By name, of `LAYERS`, those there are.
        profiles: For each plane the mean uncertainty of its slices in [0, 1]; empty without uncertainty.
    """

    spacing_mm: tuple[float, float, float]
    layers: dict[str, NDArray[np.uint8]]
    profiles: list[list[float]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices of each plane."""
        x, y, z = self.layers["image"].shape
        return x, y, z


class CasePictures:
    """Thumbnails and slices of the app's cases. Thread-safe.

    Both are known by the case and the key of its state (scan, draft of which model, hash of the label): when
    one of these changes, the picture is drawn anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._thumbnails: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._cases: OrderedDict[tuple[str, str], TurnedCase] = OrderedDict()

    def thumbnail(self, app: Any, image: str) -> tuple[bytes, str]:
        """The slice that says most about a case as PNG, and its tag; never asks the model."""
        tag = tag_of(app.review.state(image))
        known = _recall(self._lock, self._thumbnails, (image, tag))
        if known is None:
            known = _thumbnail(app.review.picture(image))
            with self._lock:
                self._thumbnails[image, tag] = known
                while len(self._thumbnails) > KEPT_THUMBNAILS:
                    self._thumbnails.popitem(last=False)
        return known, tag

    def slice_(
        self, app: Any, image: str, plane: str, place: int, layer: str, wanted: str | None = None
    ) -> tuple[bytes, str]:
        """One layer of one slice as PNG, and its tag; 404 for what there is not.

        Args:
            app: The running app.
            image: A case.
            plane: Name of one of `PLANES`.
            place: From the left, back or foot, from 0.
            layer: One of `LAYERS`; all but `image` are transparent.
            wanted: The tag of the state that the page shows; 409 when the case has changed since, for layers
                of two models must not lie over each other.
        """
        names = [known.name for known in PLANES]
        if plane not in names:
            refuse(404, f"There is no plane {shown(plane)} here; available: {', '.join(names)}.")
        if layer not in LAYERS:
            refuse(404, f"There is no layer {shown(layer)} here; available: {', '.join(LAYERS)}.")
        case, tag = self.case(app, image)
        if wanted is not None and wanted != tag:
            refuse(409, f"The case {shown(image)} has changed since its page was made; reload the page.")
        number = names.index(plane)
        if not 0 <= place < case.shape[number]:
            refuse(404, f"There is no {plane} slice {place}; this scan has 0 to {case.shape[number] - 1}.")
        if layer not in case.layers:
            refuse(404, f"There is no {layer} of {shown(image)} yet.")
        return _slice(case, number, place, layer), f"{tag}-{plane}-{place}-{layer}"

    def profiles(self, app: Any, image: str) -> dict[str, list[float]]:
        """The mean uncertainty of each slice, by plane; empty without uncertainty."""
        case, _ = self.case(app, image)
        return {plane.name: means for plane, means in zip(PLANES, case.profiles, strict=False)}

    def case(self, app: Any, image: str) -> tuple[TurnedCase, str]:
        """A case's volumes, and the tag of its state."""
        # One at a time: the four layers of a slice are asked for together, and each scan should be read once.
        with self._loading:
            tag = tag_of(app.review.state(image))
            known = _recall(self._lock, self._cases, (image, tag))
            while known is None:
                known = _turned(app.review.volumes(image))
                before, tag = tag, tag_of(app.review.state(image))
                if tag == before:
                    self._remember((image, tag), known)
                else:  # fetched only now, or changed while it was read: the tag is another state's
                    known = None
        return known, tag

    def _remember(self, key: tuple[str, str], case: TurnedCase) -> None:
        with self._lock:
            for old in [old for old in self._cases if old[0] == key[0]]:
                del self._cases[old]
            self._cases[key] = case
            while len(self._cases) > 1 and sum(map(_bytes, self._cases.values())) > KEPT_BYTES:
                self._cases.popitem(last=False)


def tag_of(state: dict[str, Any]) -> str:
    """The key of a case's state as a short word for addresses and `ETag`."""
    return hashlib.sha256(str(state["key"]).encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _recall(lock: Any, kept: OrderedDict[tuple[str, str], Result], key: tuple[str, str]) -> Result | None:
    with lock:
        found = kept.get(key)
        if found is not None:
            kept.move_to_end(key)
        return found


def _bytes(case: TurnedCase) -> int:
    return sum(layer.nbytes for layer in case.layers.values())


def _turned(volumes: Any) -> TurnedCase:
    axes = PatientAxes(volumes.affine)
    there = {name: getattr(volumes, name) for name in LAYERS}
    layers = {name: axes.turned(array) for name, array in there.items() if array is not None}
    unsure = layers.get("uncertainty")
    profiles: list[list[float]] = []
    if unsure is not None:
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            means = unsure.mean(axis=others, dtype=np.float64) / 255.0
            profiles.append([round(float(mean), 6) for mean in means])
    return TurnedCase(axes.spacing_mm, layers, profiles)


def _slice(case: TurnedCase, plane: int, place: int, layer: str) -> bytes:
    slice_ = cut(case.layers[layer], plane, place)
    rows, columns = slice_.shape
    size = drawing.size_of((rows, columns), pixel_mm(case.spacing_mm, plane), SLICE)
    if layer == "image":
        return drawing.png(drawing.gray(slice_, size))
    if layer == "uncertainty":
        return drawing.png(drawing.heat(slice_, size))
    return drawing.png(drawing.contour(slice_, size, REFERENCE if layer == "label" else drawing.MODEL))


def _thumbnail(picture: Any) -> bytes:
    axes = PatientAxes(picture.affine)
    plane = axes.plane(picture.axis)

    def seen(slice_: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        if slice_ is None:
            return None
        return cut(axes.turned(np.expand_dims(slice_, picture.axis)), plane, 0)

    image = seen(picture.image)
    assert image is not None
    rows, columns = image.shape
    size = drawing.size_of((rows, columns), pixel_mm(axes.spacing_mm, plane), THUMBNAIL)
    return drawing.thumbnail(
        image, seen(picture.label), seen(picture.segmentation), seen(picture.uncertainty), size
    )
