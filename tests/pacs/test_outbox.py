"""What is put into the outbox reaches the PACS, be it down, stopped in between, or refusing some."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.dicom.refusals import UnusableSeries
from lib.pacs.connection import PacsRefused, PacsUnavailable
from lib.pacs.dicomweb import DicomWeb
from lib.pacs.outbox import Outbox
from tests.dicom.phantom_series import PLANS, encoded, phantom_series
from tests.pacs.small_pacs import SmallPacs


def test_results_wait_while_the_pacs_is_down_and_arrive_in_order(
    pacs: SmallPacs, web: DicomWeb, tmp_path: Path
) -> None:
    box = Outbox(tmp_path, web)
    sent = [box.put(encoded(dataset)) for dataset in phantom_series(PLANS["axial"])[:3]]
    pacs.faults = [("/studies", 503)] * 3
    with pytest.raises(PacsUnavailable):
        box.deliver()
    restarted = Outbox(tmp_path, web)
    assert restarted.waiting() == sent
    assert restarted.deliver() == 3
    assert list(pacs.objects) == sent
    assert restarted.waiting() == []
    assert restarted.deliver() == 0


def test_a_stop_between_two_objects_leaves_the_rest(pacs: SmallPacs, web: DicomWeb, tmp_path: Path) -> None:
    box = Outbox(tmp_path, web)
    first, second = [box.put(encoded(dataset)) for dataset in phantom_series(PLANS["axial"])[:2]]
    answers = iter([None, *[503] * 3])
    pacs.fault = lambda path: next(answers, None)  # type: ignore[method-assign]
    with pytest.raises(PacsUnavailable):
        box.deliver()
    assert list(pacs.objects) == [first]
    assert box.waiting() == [second]
    assert box.deliver() == 1


def test_what_the_pacs_refuses_is_set_aside_and_holds_up_nothing(
    pacs: SmallPacs, web: DicomWeb, tmp_path: Path
) -> None:
    box = Outbox(tmp_path, web)
    first, second, third = [box.put(encoded(dataset)) for dataset in phantom_series(PLANS["axial"])[:3]]
    pacs.refuse_uids = {second}
    assert box.deliver() == 2
    assert list(pacs.objects) == [first, third]
    assert (box.waiting(), box.refused()) == ([], [second])


def test_two_servers_send_each_object_once(pacs: SmallPacs, web: DicomWeb, tmp_path: Path) -> None:
    boxes = [Outbox(tmp_path, web), Outbox(tmp_path, web)]
    sent = [boxes[0].put(encoded(dataset)) for dataset in phantom_series(PLANS["axial"])[:2]]
    asked: list[int] = []

    def meanwhile(path: str) -> None:
        if not asked:  # the first is on its way, and still waits on the disk
            asked.append(boxes[1].deliver())

    pacs.fault = meanwhile  # type: ignore[method-assign, assignment]
    assert boxes[0].deliver() == 2
    assert asked == [0]
    assert list(pacs.objects) == sent
    assert boxes[1].deliver() == 0


def test_wrong_credentials_lose_nothing(pacs: SmallPacs, web: DicomWeb, tmp_path: Path) -> None:
    pacs.credentials = "Basic other"
    box = Outbox(tmp_path, web)
    uid = box.put(encoded(phantom_series(PLANS["axial"])[0]))
    with pytest.raises(PacsRefused, match="check user"):
        box.deliver()
    assert (box.waiting(), box.refused()) == ([uid], [])


def test_only_dicom_objects_are_taken(web: DicomWeb, tmp_path: Path) -> None:
    with pytest.raises(UnusableSeries):
        Outbox(tmp_path, web).put(b"no DICOM")
