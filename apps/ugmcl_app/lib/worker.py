"""worker: training, scoring and prediction in a process of their own: `python -m lib.worker
train|score|compare|predict`.

Standard output carries JSON lines for the server and nothing else. SIGTERM, or the death of the process that
started it, makes a worker save its state and exit. Imports neither the host nor the web framework's server,
so a round begins seconds after its label.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .precedence import Resting

# `import monai` tries every one of these that is installed, and the host installs most of them. A worker uses
# none, and without them it starts in 3 seconds of CPU time instead of 7.
UNUSED_PACKAGES = (
    "mlflow",
    "ignite",
    "transformers",
    "pandas",
    "skimage",
    "sklearn",
    "cv2",
    "itk",
    "torchvision",
    "matplotlib",
    "scipy.signal",
)
PARENT_POLL_S = 1.0
ORPHAN_GRACE_S = 30.0


class StopRequested(BaseException):
    """Raised where SIGTERM arrives outside the training loop; no Exception, so that nothing swallows it."""


class StopSignal:
    """Turns SIGTERM into a question the training loop can ask, or into an exception everywhere else.

    Attributes:
        requested: Whether SIGTERM has arrived.
        graceful: True while someone asks `requested` regularly; otherwise SIGTERM raises StopRequested.
    """

    def __init__(self) -> None:
        self.requested = False
        self.graceful = False
        signal.signal(signal.SIGTERM, self._arrived)

    def _arrived(self, number: int, frame: object) -> None:
        repeated, self.requested = self.requested, True
        if not self.graceful and not repeated:
            raise StopRequested


class EventStream:
    """JSON lines on the real standard output; anything else that prints goes to standard error."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def __call__(self, event: str, **values: Any) -> None:
        try:
            self._stream.write(json.dumps({"event": event, **values}) + "\n")
            self._stream.flush()
        except BrokenPipeError:  # nobody reads any more: the server died, and the state must still be saved
            self._stream = Path(os.devnull).open("w")  # noqa: SIM115 - open for the rest of the worker's life
            os.kill(os.getpid(), signal.SIGTERM)


def watch_parent(parent: int) -> None:
    """Start a thread that ends this process when `parent` no longer is its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


@contextlib.contextmanager
def only_worker(folder: Path, patience_s: float = 90.0) -> Iterator[None]:
    """Hold the folder's lock, so that a worker orphaned by a dead server cannot write beside its successor.

    Raises TimeoutError after `patience_s` seconds.
    """
    import fcntl  # only on POSIX, as everything with process groups here

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "worker.lock").open("w") as lock:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"Another worker has held {folder.name} for {patience_s:.0f} s; "
                        "end it, then start again."
                    ) from None
                time.sleep(0.2)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "score", "compare"):
        job = commands.add_parser(name)
        job.add_argument("--job", type=Path, required=True, help="JSON file with the work to do")
        job.add_argument("--nice", type=int, default=0)
        job.add_argument(
            "--parent", type=int, default=0, help="end when this is no longer the parent process"
        )
    predict = commands.add_parser("predict")
    predict.add_argument("--model", type=Path, required=True)
    predict.add_argument("--input", type=Path, required=True)
    predict.add_argument("--output", type=Path, required=True)
    predict.add_argument("--device", default="auto")
    predict.add_argument("--mc-samples", type=int, default=8)
    predict.add_argument("--threads", type=int, default=0)
    predict.add_argument("--nice", type=int, default=0)
    return parser


def _yield_processor(nice: int) -> None:
    """Leave the processor to the server's requests.

    Niceness alone does not: the worker has a session of its own, and Linux's automatic groups give each
    session an equal share whatever the niceness inside. The group has a niceness too; half of ours leaves a
    round about a quarter of a processor that something else, such as a viewer, keeps busy.
    """
    os.nice(nice)
    with contextlib.suppress(OSError):  # no such file where the kernel does not group
        Path("/proc/self/autogroup").write_text(str(nice // 2), encoding="ascii")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    _yield_processor(options.nice)
    if options.command == "predict":
        from .worker_predict import predict_folder

        return predict_folder(
            options.model, options.input, options.output, options.device, options.mc_samples, options.threads
        )
    emit = EventStream()
    if options.parent:
        watch_parent(options.parent)
    try:
        _run_job(options.command, json.loads(options.job.read_text()), emit)
    except StopRequested:
        _end_by_sigterm()
    except Exception as error:
        import traceback

        traceback.print_exc()
        emit("error", sentence=str(error) or f"The worker failed with {type(error).__name__}.")
        return 1
    return 0


def _run_job(command: str, job: dict[str, Any], emit: EventStream) -> None:
    if command == "score":  # SIGTERM may end it anywhere: every score is already reported
        from .worker_score import score_cases

        _rest_during_inferences(job)
        score_cases(job, emit)
        return
    if command == "compare":  # likewise: it writes nothing
        from .worker_compare import compare

        _rest_during_inferences(job)
        compare(job, emit)
        return
    from .worker_train import train_round

    stop = StopSignal()
    _rest_during_inferences(job, lambda: stop.requested)
    with only_worker(Path(job["workdir"])):
        train_round(job, emit, stop)
    if stop.requested:
        raise StopRequested


def _rest_during_inferences(job: dict[str, Any], ended: Callable[[], bool] = lambda: False) -> None:
    if job.get("inference_lock"):
        Resting(Path(job["inference_lock"]), ended)


def _end_by_sigterm() -> None:
    # By the signal itself, so that whoever waits for this process sees why it ended.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def leave_out(packages: Sequence[str]) -> None:
    """Make imports of these packages fail in this process, as if they were not installed."""
    for name in packages:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


if __name__ == "__main__":
    leave_out(UNUSED_PACKAGES)
    sys.exit(main())
