"""What long commands say of themselves while they run."""

import io

import pytest

from ugmcl import terminal
from ugmcl.trainer import Progress


class Screen(io.StringIO):
    """A standard error that is a terminal or is not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("on_terminal", "said"),
    [
        (True, "".join(f"\rrun: step {step}/6, 9 s left   " for step in (1, 2, 3, 4, 6))),
        (False, "run: step 3/6, 9 s left\nrun: step 6/6, 9 s left\n"),
    ],
)
def test_a_terminal_sees_each_second_and_a_log_each_minute(
    on_terminal: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, now = Screen(on_terminal), [1000.0]
    monkeypatch.setattr(terminal.sys, "stderr", screen)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    report = terminal.progress_line("run")
    for step, moment in enumerate((1000.5, 1030.0, 1061.0, 1090.0, 1090.4, 1121.5), start=1):
        now[0] = moment
        report(Progress(step, 6, 9.0, {}, "train"))
    assert screen.getvalue() == said
