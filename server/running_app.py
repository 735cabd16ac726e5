"""The one door to floor 2: the app object the host made, and the names it knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from monailabel.interfaces.utils.app import app_instance

from server.names import known, safe_name, shown
from server.refusal import refuse

Result = TypeVar("Result")

HEAVY_THREADS = 4
_heavy: anyio.CapacityLimiter | None = None


def running_app() -> Any:
    """The loaded app (`UGMCLApp`); it has no type here, because the host unloads and reloads its module."""
    return app_instance()


def known_image(app: Any, image: str) -> str:
    """Return the image id; 400 if it is unsafe, 404 if the datastore does not serve it."""
    if not app.datastore().has_image(safe_name(image, "image")):
        app.datastore().get_image_info(
            image
        )  # our datastore refuses with the reason, such as a file set aside
        refuse(404, f"There is no image {shown(image)} here; GET /datastore/?output=all lists them.")
    return image


def named_image(app: Any, image: str, series: str = "", study: str = "") -> str:
    """Return the id of an image that is named by id or, where the images are a PACS's, by DICOM UIDs.

    Raises:
        HTTPException: 400 for an unsafe name, or two that differ; 404 for an unknown one; 409 for a study
            with several series; 422 for UIDs where images are files.
    """
    if not series and not study:
        return known_image(app, image)
    if app.pacs is None:
        refuse(422, "Images are named by series or study only where they come from a PACS; give image=ID.")
    for given in filter(None, (series, study)):
        safe_name(given, "UID")
    found = str(app.pacs.case_named(series, study))
    if image and image != found:
        refuse(400, f"The image {shown(image)} is not that of the series or study; give one of them.")
    return known_image(app, found)


def known_model(app: Any, model: str) -> str:
    """Return the name of an inference task; 400 or 404 otherwise."""
    return known(model, "model", app._infers)


def known_trainer(app: Any, trainer: str) -> str:
    """Return the name of a training task; 400 or 404 otherwise."""
    return known(trainer, "trainer", app._trainers)


async def heavy(work: Callable[[], Result]) -> Result:
    """Run `work` on one of a few threads kept for inference.

    The framework's own pool has 40 threads for everything: 40 waiting inferences would leave `/info/` none.
    """
    global _heavy
    if _heavy is None:
        _heavy = anyio.CapacityLimiter(HEAVY_THREADS)
    return await anyio.to_thread.run_sync(work, limiter=_heavy)
