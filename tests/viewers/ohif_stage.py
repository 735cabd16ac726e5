"""What an OHIF journey plays on: a PACS with generated series, a server on it with a model, and a browser."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, expect, sync_playwright

from sample_data.phantom import make_phantom
from tests.dicom.phantom_series import encoded
from tests.journeys.live_server import LiveServer, Project, serving
from tests.pacs.orthanc import Orthanc, require_orthanc
from tests.viewers.phantom_pacs import LPS_RAS, SeriesInPacs, series_of

ROOT = Path(__file__).resolve().parents[2]
OHIF = ROOT / ".ohif"
CHROMIUM = Path("/usr/bin/chromium")
PICTURES = ROOT / "build" / "viewers"
SCANS, LABELED = 4, 2
SIZE = (64, 64, 32)
"""Voxels cut out of each phantom around its atrium."""
STEPS = 80
NETWORK = {"filters": (8, 16), "convolutions": (1, 1)}
PATIENCE_MS = 240_000
"""With a step of the browser: it draws by software, maybe beside other tests."""
# No GPU here: WebGL 2 by software.
FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-dev-shm-usage",
]


@dataclass(frozen=True)
class Stage:
    """The PACS, the server, and the series: the first `LABELED` have their label, the others have none."""

    orthanc: Orthanc
    server: LiveServer
    series: list[SeriesInPacs]

    def named(self, uid: str) -> SeriesInPacs:
        return next(one for one in self.series if one.uid == uid)

    def pacs_series(self, study: str, modality: str) -> list[str]:
        """SeriesInstanceUIDs in the PACS, asked past the server."""
        answer = httpx.get(
            f"{self.orthanc.url}/studies/{study}/series",
            params={"Modality": modality},
            headers={"Accept": "application/dicom+json"},
        )
        return [one["0020000E"]["Value"][0] for one in answer.json()] if answer.content else []


def require_parts() -> None:
    """Skip with the reason where a part of the stage is not installed."""
    require_orthanc()
    if not CHROMIUM.exists():
        pytest.skip("no Chromium: apt install chromium (docs/viewers.md)")
    if not (OHIF / "index.html").is_file():
        pytest.skip("no OHIF viewer: `make ohif` fetches it (docs/viewers.md)")


def cut_out(seed: int, index: int, name: str) -> SeriesInPacs:
    """A phantom around its atrium as a series."""
    phantom = make_phantom(seed, index)
    center = np.argwhere(phantom.label).mean(axis=0).round().astype(int)
    size = np.minimum(SIZE, phantom.image.shape)
    start = np.clip(center - size // 2, 0, np.array(phantom.image.shape) - size)
    cut = tuple(slice(int(low), int(low + length)) for low, length in zip(start, size, strict=True))
    affine = np.array(phantom.affine, float)
    affine[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    return series_of(phantom.image[cut].astype(np.int16), phantom.label[cut].astype(np.uint8), affine, name)


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Start all of it; the server has learned from the labeled series."""
    require_parts()
    (folder / "orthanc").mkdir(parents=True)
    orthanc = Orthanc(folder / "orthanc")
    orthanc.start()
    try:
        series = [cut_out(7, index, f"Phantom{index + 1}") for index in range(SCANS)]
        for one in series:
            for instance in one.instances:
                url = f"http://127.0.0.1:{orthanc.port}/instances"
                httpx.post(url, content=encoded(instance)).raise_for_status()
        project = _project(folder, series)
        options = ("--workspace", str(project.workspace), "--ohif", str(OHIF), *_QUICK)
        with serving(project, *options, pacs=orthanc.url) as server:
            _learn(server, [one.uid for one in series[:LABELED]])
            yield Stage(orthanc, server, series)
    finally:
        orthanc.stop()


# Every new label starts a round, and every round is published: what is shown is the loop. The first labels
# come within one wait, and so into one round.
_QUICK = (
    *("--conf", "debounce_s", "8", "--conf", "publish_margin", "1"),
    *("--conf", "round_seconds", "900", "--conf", "pacs_poll_s", "1"),
)


def _project(folder: Path, series: list[SeriesInPacs]) -> Project:
    project = Project(folder, [one.uid for one in series])
    project.studies.mkdir()
    (folder / "reference").mkdir()
    for one in series:
        nib.save(nib.Nifti1Image(one.label, one.affine), project.reference(one.uid))
        nib.save(nib.Nifti1Image(one.label, one.affine), project.image(one.uid))  # for its grid only
    project.set_training(NETWORK, (24, 24, 24), steps=STEPS, min_steps=STEPS)
    return project


def _learn(server: LiveServer, cases: list[str]) -> None:
    for case in cases:
        answer = server.submit(case)
        assert answer.status_code == 200, answer.text
    server.wait_for_labels(*cases, patience_s=1200)
    deadline = time.monotonic() + 600
    while not all(case["score"] for case in server.get("/cases?status=unlabeled").json()["cases"]):
        assert time.monotonic() < deadline, "the unlabeled cases were not scored"
        time.sleep(0.5)


@contextlib.contextmanager
def browser_page(log: list[str]) -> Iterator[Page]:
    """A page of a real Chromium; `log` takes its errors and answers."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 810})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.on("pageerror", lambda error: log.append(f"page: {error}"))
        page.on("response", lambda reply: log.append(f"{reply.status} {reply.url}"))
        yield page
        browser.close()


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


# --- what the browser has, read from cornerstone itself rather than through our modules

_READ_LABELMAP = """() => {
  const { state } = window.cornerstoneTools.segmentation;
  const [segmentation] = state.getSegmentations();
  const { imageIds } = segmentation.representationData.Labelmap;
  return imageIds.map((id) => {
    const image = window.cornerstone.cache.getImage(id);
    const plane = window.cornerstone.metaData.get('imagePlaneModule', image.referencedImageId);
    const bytes = Uint8Array.from(image.voxelManager.getScalarData());
    let text = '';
    for (const byte of bytes) text += String.fromCharCode(byte);
    return {
      values: btoa(text), columns: plane.columns, rows: plane.rows,
      origin: [...plane.imagePositionPatient],
      right: [...plane.rowCosines].map((value) => value * plane.columnPixelSpacing),
      down: [...plane.columnCosines].map((value) => value * plane.rowPixelSpacing),
    };
  });
}"""

_READ_PIXELS = """([points, selector]) => {
  const viewport = window.cornerstone.getRenderingEngines()[0].getViewports()[0];
  const canvas = viewport.element.querySelector(selector);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const scale = canvas.width / viewport.canvas.clientWidth;
  return points.map((point) => {
    const [x, y] = viewport.worldToCanvas(point);
    return [...context.getImageData(Math.floor(x * scale), Math.floor(y * scale), 1, 1).data];
  });
}"""


@dataclass(frozen=True)
class ShownLabel:
    """A label as the browser holds it: `(columns, rows, slices)`, and its affine to RAS mm."""

    values: NDArray[np.uint8]
    affine: NDArray[np.float64]


def shown_label(page: Page) -> ShownLabel:
    """The labelmap of the only segmentation in the page."""
    slices: list[dict[str, Any]] = page.evaluate(_READ_LABELMAP)
    first, last = slices[0], slices[-1]
    values = np.stack(
        [
            np.frombuffer(base64.b64decode(one["values"]), np.uint8).reshape(one["rows"], one["columns"]).T
            for one in slices
        ],
        axis=-1,
    )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = first["right"], first["down"], first["origin"]
    affine[:3, 2] = (np.array(last["origin"]) - np.array(first["origin"])) / (len(slices) - 1)
    return ShownLabel(values, LPS_RAS @ affine)


def pixels_at(page: Page, positions_ras: NDArray[np.float64], selector: str) -> NDArray[np.int64]:
    """RGBA `(n, 4)` of a canvas of the first viewport at positions `(n, 3)` in RAS mm."""
    points = (positions_ras * [-1.0, -1.0, 1.0]).tolist()
    return np.array(page.evaluate(_READ_PIXELS, [points, selector]), int)


def values_at(volume: Any, positions_ras: NDArray[np.float64]) -> NDArray[Any]:
    """Values of a NIfTI image at positions `(n, 3)` in RAS mm, each of which must be a voxel's middle."""
    inverse = np.linalg.inv(volume.affine)
    indices = positions_ras @ inverse[:3, :3].T + inverse[:3, 3]
    whole = np.round(indices).astype(int)
    assert np.abs(indices - whole).max() < 0.01
    return np.asarray(volume.dataobj)[tuple(whole.T)]


def positions_of(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """RAS mm `(n, 3)` of all voxels, in C order."""
    indices = np.stack(np.meshgrid(*(np.arange(length) for length in shape), indexing="ij"), axis=-1)
    return indices.reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
