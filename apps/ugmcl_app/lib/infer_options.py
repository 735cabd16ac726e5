"""infer_options: what a client may ask of an inference, and how a wrong wish is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import Refusal
from .volumes import EXTENSIONS, extension_of

DEFAULT_MC_SAMPLES = 8
MAX_MC_SAMPLES = 64
RESULT_DTYPES = (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64",
)  # fmt: skip
DEFAULT_EXTENSION = ".nii.gz"


@dataclass(frozen=True)
class InferOptions:
    """What a client may ask of an inference, checked.

    Attributes:
        uncertainty: Whether the map is wanted as a file.
        mc_samples: Monte Carlo passes, 1 to 64.
        extension: Of the result files, one of `EXTENSIONS`; the image's own if none is asked for, as stock.
        dtype: Of the label, one of `RESULT_DTYPES`; None: uint8.
        fresh: Whether the model is asked even where what it says of the case is kept.
    """

    uncertainty: bool = False
    mc_samples: int = DEFAULT_MC_SAMPLES
    extension: str = DEFAULT_EXTENSION
    dtype: str | None = None
    fresh: bool = False

    @classmethod
    def of(cls, request: dict[str, Any]) -> InferOptions:
        """Read a request; keys it does not know are left to the host.

        Raises:
            Refusal: 422, naming the parameter and what is allowed.
        """
        return cls(
            _boolean("uncertainty", request.get("uncertainty", False)),
            _samples(request.get("mc_samples", DEFAULT_MC_SAMPLES)),
            _extension(
                request.get("result_extension")
                or extension_of(str(request.get("image", "")))
                or DEFAULT_EXTENSION
            ),
            _dtype(request.get("result_dtype")),
            _boolean("fresh", request.get("fresh", False)),
        )


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # a viewer's table of options holds text
        return bool(value == "true")
    raise Refusal(422, f"params.{name} is {_shown(value)}; allowed: true, false.")


def _samples(value: Any) -> int:
    number = value
    # Of text with thousands of digits `int` makes an error.
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        number = int(value)
    whole = isinstance(number, int | float) and not isinstance(number, bool) and number == number // 1
    if not whole or not 1 <= number <= MAX_MC_SAMPLES:
        raise Refusal(
            422, f"params.mc_samples is {_shown(value)}; allowed: whole numbers 1 to {MAX_MC_SAMPLES}."
        )
    return int(number)


def _extension(value: Any) -> str:
    given = f".{value.strip().lstrip('.').lower()}" if isinstance(value, str) else value
    if given not in EXTENSIONS:
        raise Refusal(422, f"params.result_extension is {_shown(value)}; allowed: {', '.join(EXTENSIONS)}.")
    return str(given)


def _dtype(value: Any) -> str | None:
    if value in (None, ""):
        return None
    try:
        name = np.dtype(value).name if isinstance(value, str) else ""  # "float" is float64, as stock
    except (TypeError, ValueError, SyntaxError):
        name = ""
    if name not in RESULT_DTYPES:
        raise Refusal(422, f"params.result_dtype is {_shown(value)}; allowed: {', '.join(RESULT_DTYPES)}.")
    return name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
