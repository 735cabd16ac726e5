"""bench_gpu: speed and memory at the paper's left-atrium size, by `python -m ugmcl.bench --device cuda`.

A training step is that of a run (sampler, augmentation, losses, optimizer, teacher) at its end, where every
term counts; the published layout runs in the same process on scans of the same size. Times are medians
between CUDA events, one after each step. Results go to a JSON file, and the row that the report reads to
`gpu.csv` beside it. With `--device cpu --quick`, `python -m ugmcl.bench_gpu` rehearses all of it; its times
then mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import training_state
from .bench_sides import bench_cases, load_ellipsoid, published_layout_step
from .checkpoint import Checkpoint
from .compiled import compile_where_asked
from .config import Config, replace
from .devices import wait_for
from .inference import Predictor
from .methods import method_config
from .network import DualTaskVNet
from .precision import Precision, resolve_device
from .presets import preset
from .provenance import provenance
from .sampling import TwoStreamSampler
from .training_state import TrainingState
from .training_step import train_step

Report = Callable[[str], object]
LEAVABLE = ("growth", "compiled")
"""What takes minutes of its own: the growth of cost with T, patch and batch; compiling."""


class GpuSize(NamedTuple):
    """How large a measurement is.

    Attributes:
        scan: Voxels of a scan; the median left atrium has about 200 x 150 x 88.
        patch: Training patch, or `None` for the preset's.
        filters: Channels per level, or `None` for the preset's.
        warm_up: Untimed steps: cuDNN tries its convolutions, memory is taken.
        steps: Timed steps.
        volumes: Timed scans.
        samples: Numbers of dropout passes T whose cost is compared.
        patches: Patches whose cost is compared.
        batches: Labeled and as many unlabeled patches whose cost is compared.
    """

    scan: tuple[int, int, int] = (200, 152, 88)
    patch: tuple[int, int, int] | None = None
    filters: tuple[int, ...] | None = None
    warm_up: int = 5
    steps: int = 20
    volumes: int = 5
    samples: tuple[int, ...] = (2, 4, 8, 16)
    patches: tuple[tuple[int, int, int], ...] = ((80, 80, 64), (96, 96, 80), (112, 112, 80), (144, 144, 80))
    batches: tuple[int, ...] = (1, 2, 4)


FULL = GpuSize()
QUICK = GpuSize((20, 18, 16), (16, 16, 16), (4, 8), 1, 2, 1, (2,), ((16, 16, 8),), (1,))


def paper_size(name: str, method: str, size: GpuSize) -> Config:
    """A method on a preset of the paper's size, shrunk where `size` says so."""
    config = method_config(method, preset(name, ("foreground",), [size.scan], [(0.625,) * 3]))
    if size.filters is not None:
        config = replace(config, network={"filters": size.filters, "convolutions": (1,) * len(size.filters)})
    return config if size.patch is None else replace(config, preprocess={"patch": size.patch})


def step_times(step: Callable[[], Any], device: str, warm_up: int, steps: int) -> list[float]:
    """Milliseconds of `steps` steps that follow `warm_up` others, without a wait between them on a GPU."""
    for _ in range(warm_up):
        step()
    wait_for(device)
    if device == "cpu":
        marks = [time.perf_counter()]
        for _ in range(steps):
            step()
            marks.append(time.perf_counter())
        return [(after - before) * 1e3 for before, after in itertools.pairwise(marks)]
    event: Callable[..., Any] = torch.cuda.Event
    events = [event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for mark in events[1:]:
        step()
        mark.record()
    wait_for(device)
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]


def ready_to_train(
    config: Config, precision: Precision, size: GpuSize
) -> tuple[TrainingState, TwoStreamSampler]:
    """A round on synthetic scans at its last step, where every term counts, compiled where that is asked."""
    train = config.train
    cases = bench_cases(size.scan, train.labeled_batch, train.unlabeled_batch)
    labeled, unlabeled = cases[: train.labeled_batch], cases[train.labeled_batch :]
    run = training_state.start(config, None, precision, 0)
    where = training_state.data_device(config, precision.device)
    sampler = TwoStreamSampler(labeled, unlabeled, load_ellipsoid, config, run.rng, where)
    compile_where_asked(run, sampler)
    run.step = run.steps - 1
    return run, sampler


def training_figures(config: Config, precision: Precision, size: GpuSize) -> dict[str, Any]:
    """Step time, samples a second and peak memory of our training step."""
    train, device = config.train, precision.device
    began = time.perf_counter()
    run, sampler = ready_to_train(config, precision, size)
    compiled, compile_s = "encode" in run.student.__dict__, time.perf_counter() - began
    _forget_peak(device)
    times = step_times(lambda: train_step(run, sampler), device, size.warm_up, size.steps)
    batch = train.labeled_batch + train.unlabeled_batch
    figures = {**_summary(times, batch), "peak_mib": _peak_mib(device), "compiled": compiled}
    return {**figures, "compile_s": round(compile_s, 1)} if compiled else figures


def published_figures(config: Config, device: str, size: GpuSize) -> dict[str, Any]:
    """The same of the published layout: float32, nothing shared, distance maps on the host."""
    step = published_layout_step(config, device)
    _forget_peak(device)
    times = step_times(step, device, min(2, size.warm_up), max(2, size.steps // 4))
    batch = config.train.labeled_batch + config.train.unlabeled_batch
    return {**_summary(times, batch), "peak_mib": _peak_mib(device)}


def inference_figures(config: Config, precision: Precision, size: GpuSize) -> dict[str, Any]:
    """A whole scan with T dropout passes and with none, from voxels in memory to finished maps."""
    checkpoint = Checkpoint.of(DualTaskVNet(config.network), config)
    predictor = Predictor(checkpoint, precision=precision)
    scan, _ = load_ellipsoid(bench_cases(size.scan, 0, 1)[0])
    figures: dict[str, Any] = {}
    for name, samples in [("plain", 0), *((f"T={count}", count) for count in (*size.samples, 8))]:
        _forget_peak(precision.device)
        timed = []
        for _ in range(1 + size.volumes):
            found = predictor.predict(scan, uncertainty=samples > 0, mc_samples=max(1, samples))
            timed.append(found.latencies)
        middle = {
            part: round(statistics.median(one[part] for one in timed[1:]) * 1e3, 1) for part in timed[0]
        }
        figures[name] = {**middle, "peak_mib": _peak_mib(precision.device)}
    figures["ratio_to_plain"] = round(figures["T=8"]["total"] / figures["plain"]["total"], 2)
    return figures


def growth(config: Config, precision: Precision, size: GpuSize, report: Report) -> dict[str, Any]:
    """How step time and memory grow with T, patch and batch."""
    variants: dict[str, dict[str, dict[str, Any]]] = {
        "T": {str(count): {"train": {"mc_samples": count}} for count in size.samples},
        "patch": {"x".join(map(str, one)): {"preprocess": {"patch": one}} for one in size.patches},
        "batch": {
            f"{n}+{n}": {"train": {"labeled_batch": n, "unlabeled_batch": n}} for n in size.batches
        },
    }  # fmt: skip
    figures: dict[str, Any] = {}
    for axis, changes in variants.items():
        report(f"growth with {axis}")
        figures[axis] = {}
        for name, change in changes.items():
            try:
                figures[axis][name] = training_figures(replace(config, **change), precision, size)
            except torch.OutOfMemoryError:
                figures[axis][name] = "out of memory"
                torch.cuda.empty_cache()
    return figures


def measure(size: GpuSize, device: str, report: Report, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """All figures, as written to the JSON file, but for those of `LEAVABLE` that `leave_out` names."""
    precision = Precision("fp32", device) if device == "cpu" else Precision("bf16", device, True)
    steps: dict[str, Any] = {}
    for method in ("ug_mcl", "ug_mcl_plus", "supervised"):
        for compiled in ("off", "on"):
            unwanted = device == "cpu" or method == "supervised" or "compiled" in leave_out
            if compiled == "on" and unwanted:
                continue
            report(f"training step of {method}, compile {compiled}")
            config = replace(paper_size("left-atrium", method, size), train={"compile": compiled})
            name = f"{method}, compiled" if compiled == "on" else method
            steps[name] = training_figures(config, precision, size)
    report("training step of the published layout")
    published = published_figures(paper_size("paper-la", "ug_mcl", size), device, size)
    report("whole scans")
    inference = inference_figures(paper_size("left-atrium", "ug_mcl_plus", size), precision, size)
    grown: dict[str, Any] = {}
    if "growth" not in leave_out:
        grown = growth(paper_size("left-atrium", "ug_mcl", size), precision, size, report)
    fastest = min(
        (name for name in steps if name.partition(",")[0] == "ug_mcl"), key=lambda n: steps[n]["ms"]
    )
    return {
        "train_step_ms": steps[fastest]["ms"],
        "train_step_ratio": round(published["ms"] / steps[fastest]["ms"], 2),
        "volume_inference_ms": inference["T=8"]["total"],
        "compiled": steps[fastest]["compiled"],
        "steps": {**steps, "published layout": published},
        "inference": inference,
        "growth": grown,
        "precision": precision.to_dict(),
        **provenance(device),
    }


def write_row(path: Path, figures: dict[str, Any]) -> None:
    """The row of `gpu.csv` that the report reads."""
    names = ("train_step_ms", "train_step_ratio", "volume_inference_ms", "device", "compiled", "commit")
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerow(figures)


def _summary(times: list[float], batch: int) -> dict[str, float]:
    middle = statistics.median(times)
    return {
        "ms": round(middle, 3),
        "slowest_ms": round(max(times), 3),
        "samples_per_s": round(batch * 1e3 / middle, 1),
    }


def _forget_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_mib(device: str) -> float | None:
    """What torch's allocator held at most, in MiB; `None` on a CPU."""
    return None if device == "cpu" else round(torch.cuda.max_memory_allocated(device) / 2**20, 1)


def table(figures: dict[str, Any]) -> str:
    """The figures for a terminal."""
    lines = []
    for name, step in figures["steps"].items():
        speed = f"{step['ms']:>10.1f} ms{step['samples_per_s']:>10.1f} samples/s"
        lines.append(f"{name:28}{speed}  {step['peak_mib']} MiB")
    lines += [f"{name:28}{figures[name]:>10.1f}" for name in ("train_step_ratio", "volume_inference_ms")]
    lines.append(f"{'T = 8 over a plain pass':28}{figures['inference']['ratio_to_plain']:>10.2f}")
    for axis, values in figures["growth"].items():
        shown = [f"{key}: {one if isinstance(one, str) else one['ms']}" for key, one in values.items()]
        lines.append(f"ms with {axis:20}{', '.join(shown)}")
    return "\n".join(lines) + "\n"


def run(device: str, out: Path, *, quick: bool = False, leave_out: Sequence[str] = ()) -> int:
    """Measure, write the JSON file and `gpu.csv` beside it, and show the figures."""
    size = QUICK if quick else FULL
    report: Report = lambda text: sys.stderr.write(f"... {text}\n")  # noqa: E731
    figures = measure(size, resolve_device(device), report, leave_out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_row(out.with_name("gpu.csv"), figures)
    sys.stdout.write(table(figures))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m ugmcl.bench_gpu", description=(__doc__ or "").splitlines()[0])
    option = parser.add_argument
    option("--device", default="cuda", help="cuda (default), or cpu to rehearse")
    option("--quick", action="store_true", help="tiny sizes: shows that it runs")
    option("--out", type=Path, default=Path("build/bench-gpu.json"), help="default: build/bench-gpu.json")
    option("--leave-out", nargs="*", default=[], choices=LEAVABLE, help="what is not measured")
    given = parser.parse_args(arguments)
    return run(given.device, given.out, quick=given.quick, leave_out=given.leave_out)


if __name__ == "__main__":
    raise SystemExit(main())
