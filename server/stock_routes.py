"""The stock server's remaining routes, moved off the event loop and with every name they take checked.

The stock endpoints are `async def` around blocking code: one slow call would stop the whole server. Here each
is called from a plain `def`, which the framework runs in its thread pool. What these routes could do against
the project is left out or refused, with the reason at the place.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.endpoints import batch_infer, info, model, ohif, scoring
from monailabel.endpoints.logs import get_logs
from monailabel.endpoints.user.auth import DEFAULT_USER

from server.log_setup import log_file
from server.names import known, safe_name, safe_tag
from server.refusal import refuse
from server.running_app import known_model, running_app

# A version is made by a round and never changes: uploads and deletions would break its record.
_MODEL_FILES = "Model files are made by rounds; choose one with POST /models/{version}/publish."
_NO_GPU = "No NVIDIA driver was found on this machine, so there is nothing to show."


def stock_routers() -> Iterator[APIRouter]:
    """Give the remaining stock routers in the order they are to be included."""
    yield in_threads(info.router)
    yield in_threads(model.router, keep=lambda route: route.methods == {"GET"})
    # The stock task shares its images out over the GPUs, and divides by zero where there is none. Our model
    # chooses its device itself.
    yield in_threads(batch_infer.router, fixed={"multi_gpu": False, "max_workers": 1})
    yield in_threads(scoring.router)
    yield in_threads(ohif.router)
    yield _replaced


def in_threads(
    router: APIRouter,
    keep: Callable[[APIRoute], bool] = lambda route: True,
    fixed: Mapping[str, Any] | None = None,
) -> APIRouter:
    """Copy a stock router with each endpoint run in the thread pool.

    Args:
        router: The stock router.
        keep: Which of its routes.
        fixed: What `params` hold whatever the client says, on the routes that take `params`.
    """
    copy = APIRouter()
    for route in router.routes:
        if isinstance(route, APIRoute) and keep(route):
            copy.add_api_route(
                route.path,
                _blocking(route.endpoint, fixed or {}),
                methods=sorted(route.methods or ()),
                summary=route.summary,
                tags=route.tags,
                include_in_schema=route.include_in_schema,
                deprecated=route.deprecated,
                responses=route.responses,
                name=route.name,
            )
    return copy


def _blocking(endpoint: Callable[..., Any], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    """Turn a stock `async def` endpoint, which never really awaits, into a plain function for a thread.

    `functools.wraps` would not do: the framework looks through `__wrapped__` and finds the coroutine again.
    The `user` parameter goes, because authentication is not part of this server yet and the stock dependency
    would show up as a query parameter `token`.
    """
    signature = inspect.signature(endpoint)
    takes_user = "user" in signature.parameters

    def blocking(**given: Any) -> Any:
        _check(given)
        if fixed and "params" in given:
            given["params"] = {**(given["params"] or {}), **fixed}
        if takes_user:
            given["user"] = DEFAULT_USER
        return asyncio.run(endpoint(**given))

    kept = [
        value.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, value in signature.parameters.items()
        if name != "user"
    ]
    blocking.__name__ = endpoint.__name__
    blocking.__doc__ = endpoint.__doc__
    blocking.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    blocking.__annotations__ = {value.name: value.annotation for value in kept}
    return blocking


def _check(given: dict[str, Any]) -> None:
    """Refuse unsafe and unknown names among a stock endpoint's arguments."""
    app = running_app()
    if "model" in given:
        known_model(app, given["model"])
    if "method" in given:
        known(given["method"], "scoring method", app._scoring_methods)
    params = given.get("params") or {}
    if "label_tag" in params:
        safe_tag(str(params["label_tag"]))
    for key in ("image", "model", "method"):
        if key in params:
            safe_name(str(params[key]), key)


_replaced = APIRouter()


@_replaced.put("/model/{name}", tags=["Model"], include_in_schema=False)
@_replaced.delete("/model/{name}", tags=["Model"], include_in_schema=False)
def no_model_files(name: str) -> None:
    refuse(405, _MODEL_FILES)


@_replaced.get("/logs/", tags=["Others"], summary="The end of the server's log")
def logs(lines: int = 300, html: bool = True, text: bool = False, refresh: int = 0) -> Any:
    # The stock route reads a file in the app folder; ours lies with the project.
    file = log_file()
    if file is None or not file.is_file():
        refuse(404, "This server writes no log file; its log is on the terminal that started it.")
    return get_logs(str(file), max(lines, 1), html, text, refresh)


@_replaced.get("/logs/gpu", tags=["Others"], summary="What nvidia-smi shows")
def gpu() -> Any:
    import shutil
    import subprocess

    from fastapi.responses import PlainTextResponse

    if shutil.which("nvidia-smi") is None:
        refuse(404, _NO_GPU)
    shown = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30, check=False)
    return PlainTextResponse(shown.stdout)
