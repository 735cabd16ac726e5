"""look: what the files of one case are good for: which scan is served, which labels count, what is set aside.

Reads files, but neither reads nor writes the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..checks import TAGS
from ..errors import Refusal
from ..pool import Finding, Signature, label_context, read_label_file
from ..volumes import EXTENSIONS
from .labels import FINAL
from .schema import Label

if TYPE_CHECKING:
    from .case_source import CaseSource

UNOPENED, HEADER, VOXELS = 0, 1, 2
IMAGE = "image"
NO_IMAGE = "There is no usable image with this id."


class FileRow(NamedTuple):
    """A row of the table `folder_files`."""

    name: str
    kind: str
    case_id: str | None
    size: int
    mtime_ns: int
    depth: int
    finding: str | None
    reason: str | None
    context: str
    sha256: str

    @property
    def signature(self) -> Signature:
        return Signature(self.size, self.mtime_ns)

    @property
    def is_settled(self) -> bool:
        """Whether the file need not be read again before it changes."""
        return self.depth > UNOPENED or self.finding is None


@dataclass
class CaseLook:
    """What a look at the files of one case found.

    Attributes:
        case_id: The case.
        serving: The file of its scan; None: no usable one.
        hidden: A file of its scan that is set aside.
        files: Every file of the case.
        labels: The label that counts, by tag.
        postponed: Labels that there was no time to read: nothing is known of them yet.
    """

    case_id: str
    serving: str | None = None
    hidden: str | None = None
    files: dict[str, FileRow] = field(default_factory=dict)
    labels: dict[str, FileRow] = field(default_factory=dict)
    postponed: set[str] = field(default_factory=set)


class Looker:
    """Looks at the cases of one source.

    Args:
        source: Of the scans; labels are in `labels/<tag>/` below its root.
        labels: The project's classes, `{name: value}`.
        allow_empty: Whether final labels may be all zero.
    """

    def __init__(self, source: CaseSource, labels: Mapping[str, int], allow_empty: bool) -> None:
        self.source, self.labels, self.allow_empty = source, labels, allow_empty
        self.folder = source.root

    @staticmethod
    def names_of(case_id: str) -> dict[str, str]:
        """The files that a case can have, with the kind of each."""
        names = {case_id + extension: IMAGE for extension in EXTENSIONS}
        return names | {f"labels/{tag}/{case_id}{e}": tag for tag in TAGS for e in EXTENSIONS}

    def context_of(self, image: Signature | None, tag: str, no_finding: bool) -> str:
        """What a label's finding depends on beside its bytes."""
        return label_context(image, self.labels, self._may_be_empty(tag, no_finding))

    def look(
        self,
        case_id: str,
        present: Mapping[str, Signature],
        known: Mapping[str, FileRow],
        recorded: Mapping[str, Label],
        depth: int,
        in_time: Callable[[], bool],
    ) -> CaseLook:
        """Look at one case; files that did not change since they were read are not read again.

        Args:
            case_id: The case.
            present: The files there are, with their signatures now.
            known: What was found before, by file.
            recorded: The current labels, by tag.
            depth: How far its scan must be read: `HEADER` or `VOXELS`.
            in_time: False once nothing more shall be read.
        """
        found = CaseLook(case_id)
        kinds = self.names_of(case_id)
        for name in sorted(name for name in present if kinds[name] == IMAGE):
            self._look_at_image(found, name, present[name], known.get(name), depth, in_time)
        for tag in TAGS:
            for name in sorted(name for name in present if kinds[name] == tag):
                self._look_at_label(found, tag, name, present, known.get(name), recorded.get(tag), in_time)
        return found

    def _look_at_image(
        self,
        found: CaseLook,
        name: str,
        signature: Signature,
        known: FileRow | None,
        depth: int,
        in_time: Callable[[], bool],
    ) -> None:
        if known is None or known.signature != signature or not known.is_settled:
            known = FileRow(name, IMAGE, found.case_id, *signature, UNOPENED, None, None, "", "")
        if known.finding is None and known.depth < depth and in_time():
            content = self.source.read_image(name, voxels=depth == VOXELS)
            reached = UNOPENED if content.passing else depth
            known = known._replace(depth=reached, finding=content.reason)
        reason = known.finding
        if reason is None and found.serving is not None:
            reason = f"{found.serving} has the same id; rename one of them."
        elif reason is None:
            found.serving = name
        else:
            found.hidden = found.hidden or name
        found.files[name] = known._replace(reason=reason)

    def _look_at_label(
        self,
        found: CaseLook,
        tag: str,
        name: str,
        present: Mapping[str, Signature],
        known: FileRow | None,
        recorded: Label | None,
        in_time: Callable[[], bool],
    ) -> None:
        if known is None or known.signature != present[name] or not known.is_settled:
            known = FileRow(name, tag, found.case_id, *present[name], UNOPENED, None, None, "", "")
        other = found.labels.get(tag)
        preferred = recorded is not None and name.endswith(f"{found.case_id}{recorded.extension}")
        if found.serving is None:
            found.files[name] = known._replace(reason=NO_IMAGE)
            return
        if other is not None and not preferred:
            reason = f"{Path(other.name).name} is another label of the same image."
            found.files[name] = known._replace(reason=reason)
            return
        no_finding = bool(recorded and recorded.info.get("no_finding"))
        context = self.context_of(present[found.serving], tag, no_finding)
        if known.depth == UNOPENED or known.context != context:
            if not in_time():
                found.postponed.add(name)
                return
            may_be_empty = self._may_be_empty(tag, no_finding)
            content = self._read_label(name, found.serving, may_be_empty)
            reached = UNOPENED if content.passing else VOXELS
            known = known._replace(
                depth=reached, finding=content.reason, context=context, sha256=content.sha256
            )
        found.files[name] = known._replace(reason=known.finding)
        if known.finding is None:
            if other is not None:
                reason = f"{Path(name).name} is another label of the same image."
                found.files[other.name] = other._replace(reason=reason)
            found.labels[tag] = found.files[name]

    def _read_label(self, name: str, image: str, may_be_empty: bool) -> Finding:
        try:
            file = self.source.fetch(image)
        except Refusal as refusal:
            return Finding(str(refusal.detail), passing=True)
        return read_label_file(self.folder / name, file, self.labels, may_be_empty)

    def _may_be_empty(self, tag: str, no_finding: bool) -> bool:
        return self.allow_empty or tag != FINAL or no_finding
