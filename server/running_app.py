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
