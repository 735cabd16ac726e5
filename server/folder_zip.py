"""A folder as one ZIP file that is made while it is sent; neither the disk nor the memory ever holds it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 18
_PACKED = (".gz", ".zip")


class _Sink(io.RawIOBase):
    """Takes what the archive writes, which knows from this that it cannot go back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        part = bytes(memoryview(content))  # type: ignore[arg-type]
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        """What came since this was last asked."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def chunks(folder: Path) -> Iterator[bytes]:
    """The archive's bytes, in order.

    Args:
        folder: Its files are in the archive below the folder's own name, sorted.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo.from_file(path, str(path.relative_to(folder.parent)))
            entry.compress_type = zipfile.ZIP_STORED if path.suffix in _PACKED else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while part := source.read(CHUNK):
                    target.write(part)
                    yield sink.taken()
            yield sink.taken()
    yield sink.taken()
