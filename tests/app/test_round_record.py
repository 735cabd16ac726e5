"""What the log says of a round: enough to see that it works, nothing that names a case."""

import logging

import pytest

from lib.round_record import DONE, FAILED, Round


def test_the_log_tells_of_a_rounds_beginning_and_end_and_names_no_case(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "lib.round_record")
    learned = Round("r0001", labeled_ids=["smith", "jones"])
    learned.begin()
    learned.model_version, learned.promoted = "v0001-abcdef", True
    learned.end(DONE, "Published. Set aside: smith: unreadable.")
    learned.end(FAILED, "too late")
    worse = Round("r0002", labeled_ids=["smith"], model_version="v0002-abcdef")
    worse.begin()
    worse.end(DONE, "Not published: smith.")
    assert caplog.messages == [
        "Round r0001 runs, on 2 label(s).",
        "Round r0001 is done: model v0001-abcdef is live; GET /rounds says more.",
        "Round r0002 runs, on 1 label(s).",
        "Round r0002 is done: model v0002-abcdef is kept, not published; GET /rounds says more.",
    ]
