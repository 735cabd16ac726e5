"""Our viewer modules in Node: NRRD both ways, voxels carried between grids by their position, the colors."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import nrrd
import numpy as np
import pytest

MODULES = Path(__file__).resolve().parents[2] / "server" / "ohif"
PROGRAM = Path(__file__).with_name("ohif_modules.mjs")
OBLIQUE = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]]) @ np.diag([0.7, 1.1, 2.5])
ORIGIN = np.array([-31.25, 12.5, 7.125])


def run(task: dict[str, Any]) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node: apt install nodejs")
    done = subprocess.run(
        [node, str(PROGRAM), str(MODULES)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def nrrd_bytes(array: np.ndarray, steps: np.ndarray, space: str = "left-posterior-superior") -> str:
    """An NRRD by pynrrd; the columns of `steps` are the steps of the axes in mm."""
    target = io.BytesIO()
    header = {"space": space, "space directions": steps.T, "space origin": ORIGIN, "encoding": "gzip"}
    nrrd.write(target, array, header, index_order="F")
    return base64.b64encode(target.getvalue()).decode()


@pytest.mark.parametrize(
    ("kind", "name"), [(np.uint8, "Uint8Array"), (np.float32, "Float32Array"), (np.int16, "Int16Array")]
)
def test_nrrd_of_pynrrd_is_read(kind: type, name: str) -> None:
    array = np.random.default_rng(0).uniform(0, 100, (3, 4, 5)).astype(kind)
    answer = run({"nrrd": nrrd_bytes(array, OBLIQUE)})
    assert answer["type"] == name
    assert answer["grid"]["size"] == [3, 4, 5]
    assert np.allclose(np.array(answer["grid"]["steps"]).T, OBLIQUE, atol=1e-12)
    assert np.allclose(answer["grid"]["origin"], ORIGIN, atol=1e-12)
    assert np.array_equal(np.array(answer["values"]).reshape(array.shape, order="F"), array)


def test_right_anterior_becomes_left_posterior() -> None:
    answer = run({"nrrd": nrrd_bytes(np.zeros((2, 2, 2), np.uint8), OBLIQUE, "right-anterior-superior")})
    assert np.allclose(np.array(answer["grid"]["steps"]).T, np.diag([-1, -1, 1]) @ OBLIQUE)
    assert np.allclose(answer["grid"]["origin"], [-1, -1, 1] * ORIGIN)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1)])
def test_voxels_keep_their_place_whatever_the_order_of_the_axes(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    array = np.random.default_rng(1).integers(0, 200, (3, 4, 5)).astype(np.uint8)
    steps, origin = OBLIQUE[:, list(order)].copy(), ORIGIN.copy()
    expected = np.transpose(array, order)
    for axis in (axis for axis in range(3) if flips[axis]):
        origin = origin + steps[:, axis] * (expected.shape[axis] - 1)
        steps[:, axis] *= -1
        expected = np.flip(expected, axis)
    target = {"size": list(expected.shape), "steps": steps.T.tolist(), "origin": origin.tolist()}
    answer = run({"nrrd": nrrd_bytes(array, OBLIQUE), "target": target})
    assert np.array_equal(np.array(answer["moved"]).reshape(expected.shape, order="F"), expected)
    stream = io.BytesIO(base64.b64decode(answer["written"]))
    header = nrrd.read_header(stream)
    assert np.array_equal(nrrd.read_data(header, stream, index_order="F"), expected)
    assert header["space"] == "left-posterior-superior"
    assert np.abs(np.array(header["space directions"], float).T - steps).max() < 1e-9
    assert np.abs(np.array(header["space origin"], float) - origin).max() < 1e-9


@pytest.mark.parametrize("wrong", ["moved", "turned", "smaller"])
def test_other_grids_are_refused_in_a_sentence(wrong: str) -> None:
    size, steps, origin = [3, 4, 5], OBLIQUE.copy(), ORIGIN.copy()
    if wrong == "moved":
        origin = origin + OBLIQUE[:, 0] * 0.4
    elif wrong == "turned":
        steps = OBLIQUE @ np.array([[0.995, -0.1, 0.0], [0.1, 0.995, 0.0], [0.0, 0.0, 1.0]])
    else:
        size = [3, 4, 4]
    target = {"size": size, "steps": steps.T.tolist(), "origin": origin.tolist()}
    answer = run({"nrrd": nrrd_bytes(np.ones((3, 4, 5), np.uint8), OBLIQUE), "target": target})
    assert "lies on another grid" in answer["error"]


@pytest.mark.parametrize("content", [b"{}", b"NRRD0004\ntype: uint8\nsizes: 2 2\n\n", b"NRRD0004\n"])
def test_what_is_no_volume_is_refused_in_a_sentence(content: bytes) -> None:
    answer = run({"nrrd": base64.b64encode(content).decode()})
    assert answer["error"].startswith("The server answered with")


def test_answer_cut_short_is_refused() -> None:
    array = np.random.default_rng(2).integers(0, 200, (9, 9, 9)).astype(np.uint8)
    target = io.BytesIO()
    nrrd.write(target, array, {"space": "lps", "space directions": np.eye(3), "encoding": "raw"})
    answer = run({"nrrd": base64.b64encode(target.getvalue()[:-100]).decode()})
    assert "cut short" in answer["error"]


def test_colors_are_inferno() -> None:
    values = np.linspace(0, 1, 101)
    expected = matplotlib.colormaps["inferno"](values)[:, :3] * 255
    colors = np.array(run({"colors": values.tolist()})["colors"])
    assert np.abs(colors - expected).max() <= 7  # straight lines between 17 of its colors


def test_the_least_sure_slices_come_first_and_lie_apart() -> None:
    #         0     1    2    3    4     5    6    7    8     9
    means = [0.5, 0.75, 0.5, 0.5, 0.625, 0.5, 0.5, 0.5, 0.25, 1.0]
    found = run({"means": means})["slices"]
    assert found == [
        {"index": 9, "score": 1.0},
        {"index": 1, "score": 0.75},
        {"index": 4, "score": 0.625},
    ], "7 is too near to 9, and 6 to 4 and 9"
    flat = run({"means": [0.5] * 30})["slices"]
    assert [one["index"] for one in flat] == [0, 3, 6, 9, 12], "of equals the first, and five at most"
