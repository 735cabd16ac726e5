"""Which labels wait for a round, and of how many the files must be opened to know that."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.pending_labels import deserve_round, unreadable_labels


class Files:
    """Label files of some cases; notes which were asked for."""

    def __init__(self, folder: Path, readable: str) -> None:
        self.asked: list[str] = []
        self._folder = folder
        for case in readable:
            (folder / case).touch()

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        self.asked.append(label_id)
        return str(self._folder / label_id)


@pytest.mark.parametrize(
    ("readable", "learned", "min_labels", "asked", "deserved"),
    [
        ("abcd", "", 1, "a", True),
        ("abcd", "abc", 1, "d", True),
        ("cd", "", 1, "abc", True),
        ("", "", 1, "abcd", False),
        ("abd", "", 3, "abcd", True),
        ("ab", "", 3, "abcd", False),
        ("abcd", "", 5, "", False),
        ("abcd", "abcdx", 1, "", True),
    ],
)
def test_no_more_files_are_opened_than_the_answer_needs(
    tmp_path: Path, readable: str, learned: str, min_labels: int, asked: str, deserved: bool
) -> None:
    files = Files(tmp_path, readable)
    labels = dict.fromkeys("abcd", "1")
    known = dict.fromkeys(learned, "1")
    unreadable = unreadable_labels(files, labels, known, min_labels)  # type: ignore[arg-type]
    assert "".join(files.asked) == asked
    assert deserve_round(labels, known, unreadable, min_labels) is deserved
