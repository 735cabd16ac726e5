"""The server answers while it works."""

import threading
import time

import pytest

from server.responsiveness import measure
from tests.server.conftest import Server


def test_health_and_info_answer_while_inferences_are_in_flight(server: Server) -> None:
    ended: list[float] = []
    params = '{"uncertainty": true, "mc_samples": 32, "fresh": true}'

    def infer() -> None:
        answer = server.post(f"/infer/ugmcl?image={server.cases[3]}", data={"params": params})
        assert answer.status_code == 200
        ended.append(time.monotonic())

    # More than the threads kept for inference, so that some of these wait for one.
    threads = [threading.Thread(target=infer) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    answered = []
    for path in ("/health", "/info/", "/health"):
        assert server.get(path).status_code == 200
        answered.append(time.monotonic())
    for thread in threads:
        thread.join()
    assert len(ended) == 8
    assert answered[-1] < max(ended), "the server answered only after the inferences were done"


@pytest.mark.slow
def test_the_99th_percentile_of_health_under_load_is_far_from_a_blocked_loop(server: Server) -> None:
    # The product's figure, 100 ms, is measured by `python -m server.responsiveness` on a machine that is not
    # busy with tests; a blocked event loop would show as the length of an inference here.
    found = measure(server.url, 10, train=False)
    assert found.inferences > 0
    assert found.p99_ms < 1000
