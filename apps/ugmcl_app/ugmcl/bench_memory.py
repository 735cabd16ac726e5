"""bench_memory: peak memory of the training steps of one side, measured in a process of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from .bench_sides import FULL, QUICK, BenchSize, bench_config, published_layout_step, shipped_step
from .precision import choose_precision, resolve_device

SIDES = ("ours", "published_layout")
STEPS = 2
"""The second step also holds the optimizer's state."""


def peak_memory_mib(side: str, device: str, threads: int, *, quick: bool = False) -> float:
    """MiB that `STEPS` training steps of one side add to a fresh process; on a GPU, its allocator's peak.

    Args:
        side: One of `SIDES`.
        device: "cpu" or "cuda...".
        threads: CPU threads.
        quick: Tiny sizes.

    Raises:
        RuntimeError: If that process fails, with the end of what it wrote.
    """
    command = [
        sys.executable,
        "-m",
        "ugmcl.bench_memory",
        side,
        device,
        str(threads),
        "quick" if quick else "full",
    ]
    folder = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (folder, os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"Measuring the memory of {side} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _peak_of(side: str, size: BenchSize, device: str) -> float:
    """The body of a memory measurement; only right in a process that has done nothing else."""
    config = bench_config(size, device)
    before = _resident_mib("VmRSS")
    with contextlib.suppress(OSError):  # Linux: forget the peak of the imports
        Path("/proc/self/clear_refs").write_text("5")
    if side == "ours":
        step = shipped_step(config, choose_precision(config, device))
    else:
        step = published_layout_step(config, device)
    for _ in range(STEPS):
        step()
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return _resident_mib("VmHWM") - before


def _resident_mib(name: str) -> float:
    """Resident memory now ("VmRSS") or at its highest ("VmHWM"); the highest for both where /proc is missing.

    On Linux, `getrusage` would not do: a new program inherits the highest of the process that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return float(line.split()[1]) / 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main(arguments: list[str]) -> int:
    """Side, device, threads, "quick" or "full"; writes the MiB to standard output."""
    side, device, threads, size = arguments
    torch.set_num_threads(int(threads))
    peak = _peak_of(side, QUICK if size == "quick" else FULL, resolve_device(device))
    sys.stdout.write(f"{peak}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
