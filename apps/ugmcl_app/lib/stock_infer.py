"""stock_infer: what the stock server's infer route lets a client do, narrowed to what the app allows.

The stock route merges the client's `params` into the request *after* it has set `image` and `model`, and
takes any existing path of the machine as an image. Our own server builds its requests itself; under the
stock one (`monailabel start_server`) this guard in front of the route's function closes both doors.
"""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import monailabel.endpoints.infer
from monailabel.interfaces.utils.app import app_instance

from .errors import Refusal

_OWN_KEYS = ("model", "image", "image_id", "label", "session", "session_id", "description")
_SESSION = re.compile(r"[A-Za-z0-9-]{1,64}")
_installing = threading.Lock()


def install() -> None:
    """Put the guard in front of the stock function once; further calls change nothing."""
    with _installing:
        original = monailabel.endpoints.infer.run_inference
        if getattr(original, "guarded_by", None) == __name__:
            return

        def run_inference(
            background_tasks: Any,
            model: str,
            image: str = "",
            session_id: str = "",
            params: str = "{}",
            file: Any = None,
            label: Any = None,
            output: Any = None,
        ) -> Any:
            kept = _allowed(params)
            if session_id and not _SESSION.fullmatch(session_id):
                raise Refusal(400, "session_id is not allowed; it has letters, digits and '-' only.")
            if not file and not session_id:
                # An id, never a path; the app says which ids it knows.
                app_instance().datastore().get_image_info(image)
            return original(background_tasks, model, image, session_id, kept, file, label, output)

        run_inference.guarded_by = __name__  # type: ignore[attr-defined]
        monailabel.endpoints.infer.run_inference = run_inference


def _allowed(params: str | None) -> str:
    try:
        given = json.loads(params or "{}")
    except (ValueError, RecursionError):
        raise Refusal(400, 'params is not JSON; send an object, such as {"mc_samples": 8}.') from None
    if not isinstance(given, dict):
        raise Refusal(400, f"params is a JSON {type(given).__name__}; send an object, such as {{}}.")
    return json.dumps({key: value for key, value in given.items() if key not in _OWN_KEYS})
