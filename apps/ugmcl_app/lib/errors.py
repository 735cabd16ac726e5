"""errors: the two ways of saying no, each a sentence that names what was given and what is allowed."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException


class Refusal(HTTPException):
    """A request that is not carried out and has changed nothing on disk.

    The stock server answers it with its status and `{"detail": sentence}`; ours adds `extra` as further keys.

    Attributes:
        status_code: HTTP status: 400, 404, 409, 413 or 422.
        detail: The sentence.
        extra: Further JSON values of the answer, such as `expected_shape`.
    """

    def __init__(self, status: int, sentence: str, **extra: Any) -> None:
        super().__init__(status_code=status, detail=sentence)
        self.extra = extra


class UnusableImage(ValueError):
    """A file that is no usable 3D scan; its text is the reason, a sentence without the file's name."""
