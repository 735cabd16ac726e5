"""Waiting in OHIF, on screen: `python -m tests.viewers.ohif_times`, the second half of `make bench-viewers`.

Real Orthanc, server and Chromium, which draws by software. From the click on **Next most uncertain** until
the scan's pixels are on the canvas, and from **Segment** until label and uncertainty are. Added to the
figures that `server.benchmarks.viewers` has written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
from _pytest.outcomes import Skipped
from playwright.sync_api import Page

from sample_data.phantom import make_phantom
from server.benchmarks.served import app_environment
from server.benchmarks.viewers import MODEL_OF_SCAN
from tests.dicom.phantom_series import encoded
from tests.journeys.live_server import LiveServer, Project, serving
from tests.pacs.orthanc import Orthanc
from tests.viewers.ohif_stage import OHIF, browser_page, require_parts
from tests.viewers.phantom_pacs import SeriesInPacs, series_of

SCANS = 2
PATIENCE_S = 1800.0

# The middle of the first viewport's canvas shows the series: not black, and its own.
_IMAGE_DRAWN = """(series) => {
  const viewport = window.cornerstone?.getRenderingEngines()[0]?.getViewports()[0];
  const id = viewport?.getCurrentImageId?.();
  if (!id || !document.querySelector('.ugmcl')) return false;
  if (window.cornerstone.metaData.get('generalSeriesModule', id)?.seriesInstanceUID !== series) return false;
  const canvas = viewport.element.querySelector('.cornerstone-canvas');
  const [x, y] = [canvas.width, canvas.height].map((length) => Math.floor(length / 2) - 32);
  const { data } = canvas.getContext('2d').getImageData(x, y, 64, 64);
  return data.some((value, at) => at % 4 < 3 && value > 20);
}"""

# Color on the gray canvas is the label; the uncertainty has a canvas of its own.
_OVERLAY_DRAWN = """() => {
  if (!document.querySelector('.ugmcl .message')?.textContent.includes('Segmented by')) return false;
  const pixels = (selector) => {
    const canvas = document.querySelector(selector);
    return canvas ? canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data : [];
  };
  const image = pixels('.cornerstone-canvas');
  const isColored = image.some((red, at) => at % 4 === 0 && Math.abs(red - image[at + 2]) > 20);
  return isColored && pixels('.ugmcl-heat').some((value, at) => at % 4 === 3 && value > 0);
}"""

# Milliseconds since 1970 when the page began, and since then the requests of this kind.
_REQUESTS = """(part) => ({
  begun: performance.timeOrigin,
  found: performance.getEntriesByType('resource').filter((one) => one.name.includes(part))
    .map((one) => [one.startTime, one.responseEnd]),
})"""


@contextlib.contextmanager
def playing(folder: Path) -> Iterator[tuple[LiveServer, list[SeriesInPacs], Page]]:
    """A PACS with generated series, a server with an untrained model of the usual size, and a browser."""
    (folder / "orthanc").mkdir()
    orthanc = Orthanc(folder / "orthanc")
    orthanc.start()
    try:
        series = [_series(index) for index in range(SCANS)]
        for one in series:
            for instance in one.instances:
                url = f"http://127.0.0.1:{orthanc.port}/instances"
                httpx.post(url, content=encoded(instance)).raise_for_status()
        project = Project(folder, [one.uid for one in series])
        project.studies.mkdir()
        scan = folder / "scan.nii.gz"
        nib.save(nib.Nifti1Image(series[0].label, series[0].affine), scan)  # for its grid
        line = [sys.executable, "-c", MODEL_OF_SCAN, str(project.studies), str(scan)]
        subprocess.run(line, env=app_environment(), check=True)
        options = ("--workspace", str(project.workspace), "--ohif", str(OHIF), "--conf", "pacs_poll_s", "1")
        with serving(project, *options, pacs=orthanc.url) as server:
            _wait_until_scored(server)
            with browser_page([]) as page:
                yield server, series, page
    finally:
        orthanc.stop()


def _series(index: int) -> SeriesInPacs:
    phantom = make_phantom(7, index)
    image, label = phantom.image.astype(np.int16), phantom.label.astype(np.uint8)
    return series_of(image, label, np.array(phantom.affine, float), f"Phantom{index + 1}")


def _wait_until_scored(server: LiveServer) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        cases = server.get("/cases").json()["cases"]
        if len(cases) == SCANS and all(case["score"] is not None for case in cases):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"The series were not scored.\n{server.said()}")
        time.sleep(1)


def measure(server: LiveServer, series: list[SeriesInPacs], page: Page, rounds: int) -> dict[str, Any]:
    """Medians in milliseconds over the rounds; one more goes before, for what is loaded once."""
    first = server.get("/cases?sort=uncertainty").json()["cases"][0]["id"]
    other = next(one for one in series if one.uid != first)
    waits: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        page.goto(f"{server.url}/ohif/ugmcl?StudyInstanceUIDs={other.study}")
        page.wait_for_function(_IMAGE_DRAWN, arg=other.uid)
        page.wait_for_selector(".ugmcl li")
        found = {**_next(page, first), **_segment(page)}
        for name, value in found.items() if number else ():
            waits[name].append(value)
    medians = {name: round(statistics.median(values), 1) for name, values in waits.items()}
    return {**medians, "ohif_rounds": rounds}


def _next(page: Page, case: str) -> dict[str, float]:
    clicked = 1000 * time.time()
    page.get_by_role("button", name="Next most uncertain").click()
    page.wait_for_function(_IMAGE_DRAWN, arg=case, polling="raf")
    drawn = 1000 * time.time()
    requests = page.evaluate(_REQUESTS, "/frames/")
    frame_asked, frame_here = (requests["begun"] + min(ms) for ms in zip(*requests["found"], strict=True))
    return {
        "ohif_next_ms": drawn - clicked,
        "ohif_next_asking_ms": requests["begun"] - clicked,
        "ohif_next_viewer_start_ms": frame_asked - requests["begun"],
        "ohif_next_network_ms": frame_here - frame_asked,
        "ohif_next_drawing_ms": drawn - frame_here,
    }


def _segment(page: Page) -> dict[str, float]:
    clicked = 1000 * time.time()
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_function(_OVERLAY_DRAWN, polling="raf")
    drawn = 1000 * time.time()
    requests = page.evaluate(_REQUESTS, "/infer/")
    asked, here = requests["found"][-1]
    return {
        "ohif_segment_ms": drawn - clicked,
        "ohif_segment_server_and_network_ms": here - asked,
        "ohif_segment_drawing_ms": drawn - clicked - (here - asked),
    }


def main() -> int:
    """Measure, add the figures to the file, print them."""
    options = argparse.ArgumentParser(prog="python -m tests.viewers.ohif_times", description=__doc__)
    options.add_argument("--rounds", type=int, default=5, metavar="N")
    options.add_argument("--out", type=Path, default=Path("build/bench-viewers.json"), metavar="FILE")
    given = options.parse_args()
    try:
        require_parts()
    except Skipped as missing:
        print(f"Not measured in OHIF: {missing.msg}")
        return 0
    with tempfile.TemporaryDirectory(prefix="ohif-times-") as folder, playing(Path(folder)) as parts:
        found = measure(*parts, given.rounds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(given.out.read_text()) if given.out.is_file() else {}
    given.out.write_text(json.dumps({**before, **found}, indent=1) + "\n")
    print("\n".join(f"{name}: {value}" for name, value in found.items() if name.endswith("_ms")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
