"""Names a client may give (ids, tags, versions, file names): what is safe, and what is said otherwise."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from server.refusal import refuse

LONGEST_NAME = 180
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd")
LABEL_TAGS = ("final", "original")
NO_NUL = r"^[^\x00]*$"
"""Pattern of a query's text that is only compared: PostgreSQL takes any but this one character."""


def safe_name(value: str, what: str) -> str:
    """Return `value` if it can only ever name one file in one folder.

    Raises:
        HTTPException: 400 for an empty or too long name, one that starts with a dot (so `..` and `._x` too),
            or one that holds a slash, a backslash or a control character.
    """
    reason = _unsafe_because(value)
    if reason:
        refuse(400, f"The {what} {shown(value)} {reason}. Give a plain name, as listed by GET /datastore/.")
    return value


def _unsafe_because(value: str) -> str | None:
    if not value or not value.strip():
        return "is empty"
    if len(value.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        return "holds a control character"
    if "/" in value or "\\" in value:
        return "holds a slash or a backslash"
    if value.startswith("."):
        return "starts with a dot"
    return None


def safe_tag(value: str) -> str:
    """Return the label tag, one of `final` and `original`.

    Raises:
        HTTPException: 400 for an unsafe or unknown tag.
    """
    if value not in LABEL_TAGS:  # which also refuses every unsafe one
        refuse(400, f"The tag {shown(value)} is not kept here; allowed: {', '.join(LABEL_TAGS)}.")
    return value


def upload_suffix(filename: str | None) -> str:
    """Return the suffix of an uploaded scan or label, one of `IMAGE_SUFFIXES`.

    Only the suffix is ever used. Folders in the name are accepted, because the stock client sends the file's
    whole path on its own machine; a name that climbs (`..`) is not.

    Raises:
        HTTPException: 400 for an unsafe name, 422 for a suffix that is not an image's.
    """
    base = upload_basename(filename)
    for suffix in IMAGE_SUFFIXES:
        if base.lower().endswith(suffix):
            return suffix
    refuse(422, f"The file {shown(base)} cannot be read here; allowed: {', '.join(IMAGE_SUFFIXES)}.")


def upload_basename(filename: str | None) -> str:
    """Return the last part of an uploaded file's name; 400 when the name is unsafe."""
    if not filename:
        refuse(
            400, "The uploaded file has no name. Send a file name that ends in its type, as in scan.nii.gz."
        )
    parts = [part for part in filename.replace("\\", "/").split("/") if part]
    if not parts or ".." in parts:
        refuse(400, f"The file name {shown(filename)} climbs out of its folder. Send a plain file name.")
    return safe_name(parts[-1], "file name")


def known(value: str, what: str, names: Iterable[str]) -> str:
    """Return `value` if it is safe and one of `names`; 400 or 404 otherwise.

    The sentence lists the names only where they are few: a pool may hold thousands.
    """
    safe_name(value, what)
    allowed = list(names)
    if value not in allowed:
        few = f"available: {', '.join(sorted(allowed)) or 'none'}" if len(allowed) <= 12 else "see /info/"
        refuse(404, f"There is no {what} {shown(value)} here; {few}.")
    return value


def shown(value: object) -> str:
    """A client's value as it may stand in a sentence: quoted, printable and short."""
    text = str(value)
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return f"'{printable[:80]}…'" if len(printable) > 80 else f"'{printable}'"
