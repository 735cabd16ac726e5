"""bench: speed and memory beside the published layout, measured in one run: `python -m ugmcl.bench`.

Both sides of a ratio run in this process, one after the other in pairs whose order alternates, and the
ratio is the median over pairs, so that a machine that slows down for a while slows both. Memory is measured
with each side alone in a process of its own. Results go to build/bench.json, whose keys
docs/results.md explains.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bench_memory import peak_memory_mib
from .bench_sides import (
    FULL,
    QUICK,
    BenchSize,
    bench_config,
    exact_pair,
    paper_config,
    published_layout_step,
    shipped_step,
)
from .config import Config
from .inference import window_channels
from .network import DualTaskVNet
from .precision import Precision, choose_precision, resolve_device
from .provenance import provenance
from .published_layout import naive_inference, with_torch_norms

TARGETS = {
    "train_step_ratio": 4.0,
    "train_step_ratio_fp32": 1.0,
    "inference_ratio": 1.4,
    "inference_ratio_shipped": 3.0,
}
"""Least acceptable ratios, published layout over ours."""
LOSS_TOLERANCE = 1e-3
"""Largest accepted difference of two layouts' losses."""


class Pairs(NamedTuple):
    """Times of A and B, taken in turns: `ratio` is the median of B/A, the times are medians in seconds."""

    ratio: float
    ours_s: float
    theirs_s: float
    pairs: int
    results: list[tuple[Any, Any]]

    def to_dict(self) -> dict[str, float | int]:
        """Plain values; milliseconds with two digits."""
        return {
            "ratio": round(self.ratio, 3),
            "ours_ms": round(self.ours_s * 1e3, 2),
            "theirs_ms": round(self.theirs_s * 1e3, 2),
            "pairs": self.pairs,
        }


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int, device: str = "cpu", warm_up: int = 1
) -> Pairs:
    """Run both sides `warm_up + pairs` times in turns, A B, B A, ...; only the last `pairs` are timed.

    The results of every pair are kept, the warm-up's included.
    """
    times: list[tuple[float, float]] = []
    results: list[tuple[Any, Any]] = []
    for index in range(warm_up + pairs):
        order = (ours, theirs) if index % 2 == 0 else (theirs, ours)
        first, second = (_timed(side, device) for side in order)
        pair = (first, second) if index % 2 == 0 else (second, first)
        results.append((pair[0][1], pair[1][1]))
        if index >= warm_up:
            times.append((pair[0][0], pair[1][0]))
    return Pairs(
        statistics.median(b / a for a, b in times),
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        pairs,
        results,
    )


def _timed(side: Callable[[], Any], device: str) -> tuple[float, Any]:
    start = time.perf_counter()
    result = side()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def train_step_shipped(size: BenchSize, device: str, precision: Precision) -> dict[str, Any]:
    """As shipped: our precision, sampler, losses and teacher; the published layout on the same scans."""
    config = bench_config(size, device)
    ours, theirs = shipped_step(config, precision), published_layout_step(config, device)
    pairs = alternate(ours, theirs, size.pairs, device, size.warm_up)
    patch, filters = list(config.preprocess.patch), list(config.network.filters)
    return {**pairs.to_dict(), "patch": patch, "filters": filters}


def train_step_fp32(size: BenchSize, device: str) -> dict[str, Any]:
    """Exact savings only, float32 on both sides; both compute the same loss from the same start and masks."""
    ours, theirs = exact_pair(bench_config(size, device), device)
    pairs = alternate(ours, theirs, size.pairs, device, size.warm_up)
    difference = max(abs(a - b) for a, b in pairs.results)
    return {**pairs.to_dict(), "loss_difference": difference, "last_losses": list(pairs.results[-1])}


def inference(
    config: Config, windows: int, pairs: int, device: str, precision: Precision | None
) -> dict[str, Any]:
    """One plain and T Monte Carlo passes over windows, shared against naive, under the same masks.

    Args:
        config: Its network (random weights) and patch.
        windows: Windows in one call.
        pairs: Timed pairs.
        device: Where both sides run.
        precision: Of our side; `None` for float32 as on the other side, where outputs must then be equal.
    """
    torch.manual_seed(0)
    plain = with_torch_norms(DualTaskVNet(config.network)).to(device).eval()
    shared_precision = (precision or Precision("fp32", device)).for_inference()
    network = DualTaskVNet(config.network)
    network.load_state_dict(plain.state_dict())
    network = shared_precision.place(network).eval()
    image = torch.randn(windows, 1, *config.preprocess.patch, device=device)

    @torch.inference_mode()
    def ours() -> Tensor:
        generator = torch.Generator().manual_seed(1)
        with shared_precision.autocast():
            arranged = shared_precision.arrange(image)
            return window_channels(network, arranged, config, config.infer.mc_samples, generator)

    @torch.inference_mode()
    def theirs() -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return naive_inference(plain, image, config, config.infer.mc_samples, generator)

    timed = alternate(ours, theirs, pairs, device)
    differences = [(a - b).abs() for a, b in timed.results]
    return {
        **timed.to_dict(),
        "output_difference": max(float(one.max()) for one in differences),
        "output_mean_difference": max(float(one.mean()) for one in differences),
        "precision": shared_precision.name,
    }


def measure(size_name: str, device: str, report: Callable[[str], None]) -> dict[str, Any]:
    """All figures, as written to the JSON file; `report` is told what is being measured."""
    size = QUICK if size_name == "quick" else FULL
    device = resolve_device(device)
    config = bench_config(size, device)
    precision = choose_precision(config, device)
    report(f"precision: {precision.name}, {precision.measured_ms} ms a probe step")
    report("training step, as shipped")
    shipped = train_step_shipped(size, device, precision)
    report("training step, float32, exact savings only")
    exact = train_step_fp32(size, device)
    report("inference")
    run = functools.partial(inference, pairs=size.inference_pairs, device=device)
    by_network = {
        "default": run(config, size.windows, precision=None),
        "paper_vnet": run(paper_config(size), 1, precision=None),
    }
    by_precision = run(config, size.windows, precision=precision)
    small = None if size.small_shape is None else small_scans(size, device, precision, report)
    report("peak memory")
    sides = {
        side: round(peak_memory_mib(side, device, torch.get_num_threads(), quick=size is QUICK), 1)
        for side in ("ours", "published_layout")
    }
    return {
        "train_step_ratio": shipped["ratio"],
        "train_step_ratio_fp32": exact["ratio"],
        "loss_difference": exact["loss_difference"],
        "inference_ratio": min(entry["ratio"] for entry in by_network.values()),
        "inference_output_difference": max(entry["output_difference"] for entry in by_network.values()),
        "inference_ratio_shipped": by_precision["ratio"],
        "peak_memory_mib": sides,
        "details": {
            "train_step": shipped,
            "train_step_fp32": exact,
            "inference": {**by_network, "shipped": by_precision},
            "small_scans": small,
        },
        "precision": precision.to_dict(),
        "size": size_name,
        **provenance(device),
    }


def small_scans(
    size: BenchSize, device: str, precision: Precision, report: Callable[[str], None]
) -> dict[str, Any]:
    """The shipped figures for scans of a few centimeters, where calls cost more than voxels."""
    assert size.small_shape is not None
    small = size._replace(shape=size.small_shape)
    config = bench_config(small, device)
    report("small scans")
    run = functools.partial(inference, config, small.windows, small.inference_pairs, device)
    return {
        "train_step": train_step_shipped(small, device, precision),
        "inference": run(None),
        "inference_shipped": run(precision),
    }


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{'figure':30}{'measured':>12}{'at least':>10}"]
    lines += [f"{name:30}{figures[name]:>12.2f}{target:>10.2f}" for name, target in TARGETS.items()]
    for name in ("loss_difference", "inference_output_difference"):
        lines.append(f"{name:30}{figures[name]:>12.1e}")
    small = figures["details"]["small_scans"] or {}
    lines += [f"{'small scans: ' + name:30}{entry['ratio']:>12.2f}" for name, entry in small.items()]
    for side, mib in figures["peak_memory_mib"].items():
        lines.append(f"{'peak_memory_mib ' + side:30}{mib:>12.1f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when both layouts computed the same, 1 when they did not (then no ratio counts)."""
    parser = argparse.ArgumentParser(prog="python -m ugmcl.bench", description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    option("--out", type=Path, default=Path("build/bench.json"), help="where the figures go as JSON")
    option("--device", default="cpu", help="cpu (default), cuda or auto")
    option("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    given = parser.parse_args(arguments)
    if given.threads > 0:
        torch.set_num_threads(given.threads)
    size = "quick" if given.quick else "full"
    figures = measure(size, given.device, lambda text: print(f"... {text}", file=sys.stderr, flush=True))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(_table(figures))
    same = max(figures["loss_difference"], figures["inference_output_difference"]) <= LOSS_TOLERANCE
    if not same:
        print("The two layouts differ by more than rounding; the ratios do not count.", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
