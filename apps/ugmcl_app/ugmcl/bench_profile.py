"""bench_profile: which operations the time of a training step at the paper's size goes to.

`python -m ugmcl.bench_profile --method ug_mcl_plus` shows them, the longest first; `--device cpu --quick` is
only a rehearsal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from torch.profiler import ProfilerActivity, profile

from .bench_gpu import FULL, QUICK, GpuSize, paper_size, ready_to_train
from .config import replace
from .devices import wait_for
from .precision import Precision, resolve_device
from .training_step import train_step

STEPS = 3
"""Profiled steps after the warm-up."""


def longest_operations(
    method: str, precision: Precision, size: GpuSize, compiled: str = "off", most: int = 30
) -> list[tuple[str, float, float]]:
    """Names of operations, their own milliseconds a step and calls a step, the longest first.

    Args:
        method: Of `methods.METHODS`, on the preset "left-atrium".
        precision: Number format and device.
        size: Of the scans and the network.
        compiled: `TrainConfig.compile`.
        most: Operations at most.
    """
    config = replace(paper_size("left-atrium", method, size), train={"compile": compiled})
    run, sampler = ready_to_train(config, precision, size)
    for _ in range(size.warm_up):
        train_step(run, sampler)
    wait_for(precision.device)
    on_gpu = precision.device != "cpu"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            train_step(run, sampler)
        wait_for(precision.device)
    found = []
    for event in profiled.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found.append((event.key, own / 1e3 / STEPS, event.count / STEPS))
    return sorted(found, key=lambda one: -one[1])[:most]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m ugmcl.bench_profile", description="Where a step's time goes.")
    option = parser.add_argument
    option("--method", default="ug_mcl_plus")
    option("--device", default="cuda", help="cuda (default), or cpu to rehearse")
    option("--compile", default="off", choices=["off", "on"])
    option("--quick", action="store_true", help="tiny sizes: shows that it runs")
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    precision = Precision("fp32", device) if device == "cpu" else Precision("bf16", device, True)
    size = QUICK if given.quick else FULL
    for name, milliseconds, calls in longest_operations(given.method, precision, size, given.compile):
        sys.stdout.write(f"{milliseconds:9.3f} ms {calls:7.1f} calls  {name[:90]}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
