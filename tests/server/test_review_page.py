"""The review page of a real project: what it shows, that nothing from outside can run, what it refuses."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote

import numpy as np
import pytest
import requests
from PIL import Image

from tests.server.conftest import Server
from tests.server.review_project import AWFUL, live, reviewed_project

pytestmark = pytest.mark.timeout(900)  # the fixture waits for two rounds, on a busy machine for minutes
PAGES = ("/review", "/review/cases", "/review/cases?status=all", f"/review/cases/{quote(AWFUL, safe='')}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with reviewed_project(tmp_path_factory.mktemp("reviewed")) as server:
        yield server


class Page(HTMLParser):
    """What of a page could run, load or lead elsewhere, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        self.links += [value for name, value in attributes if name in ("href", "src", "action") and value]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def page(server: Server, path: str) -> Page:
    answer = server.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


def picture(answer: requests.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("path", PAGES)
def test_no_name_from_outside_becomes_markup_and_nothing_comes_from_elsewhere(
    project: Server, path: str
) -> None:
    found = page(project, path)
    assert AWFUL in found.text
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in found.links)
    policy = project.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", PAGES)
def test_every_link_and_picture_of_a_page_answers(project: Server, path: str) -> None:
    for link in sorted(set(page(project, path).links)):
        if not link.startswith("#") and not link.endswith("/draft"):
            assert project.get(link).status_code == 200, link


def test_the_overview_shows_the_queue_the_curve_the_people_and_the_versions(project: Server) -> None:
    found = page(project, "/review")
    text = " ".join(found.text.split())
    unlabeled = project.get("/cases?status=unlabeled").json()["cases"]
    places = [text.index(case["id"]) for case in unlabeled]
    assert places == sorted(places)
    rounds = project.get("/rounds").json()["rounds"]
    assert "Round r0002 took in 5 labels" in text
    assert "new labels case_04" in text
    best = max(rounds[1]["metrics"][name]["dice"] for name in ("student", "teacher"))
    assert f"→ {best:.3f}" in text
    for title in ("Dice", "Surface distance (95HD)", "Calibration error", "Reliability true share, "):
        assert title in text
    assert found.tags.count("circle") >= 2 * 3 + 1
    assert re.search(r"ann\s+.*4 4", text)
    assert all(version in text for version in project.versions)
    assert text.count("Make live…") == 1


def test_the_calibration_of_a_round_is_a_share_of_its_voxels_near_the_boundary(project: Server) -> None:
    text = " ".join(page(project, "/review").text.split())
    said = re.findall(r"said ([\d.]+), was ([\d.]+) \((\d+) voxels\)", text)
    assert said
    for predicted, observed, voxels in said:
        assert 0 <= float(predicted) <= 1
        assert 0 <= float(observed) <= 1
        assert int(voxels) > 0


def test_the_cases_without_a_label_have_their_least_sure_slice_without_asking_the_model(
    project: Server,
) -> None:
    before = project.log.read_text().count("/draft")
    found = page(project, "/review/cases")
    assert "the model has not looked at it yet" not in found.text
    for link in (link for link in found.links if "thumbnail" in link):
        channels = np.asarray(picture(project.get(link))).astype(int)
        assert channels.shape[2] == 3
        assert (np.ptp(channels, axis=2) > 30).any()  # a contour or heat over the gray scan
    assert project.log.read_text().count("/draft") == before


def test_the_list_is_paged_and_refuses_what_is_no_page(project: Server) -> None:
    labeled = page(project, "/review/cases?status=labeled")
    assert "5 cases" in labeled.text
    for query, word in (("status=nonsense", "nonsense"), ("after=xyz", "after")):
        answer = project.get(f"/review/cases?{query}")
        assert answer.status_code == 422
        assert answer.headers["content-type"].startswith("text/html")
        assert word in Page(answer.text).text


def test_slices_have_the_shape_of_the_tissue_and_layers_lie_on_each_other(project: Server) -> None:
    base = f"/review/cases/{quote(AWFUL, safe='')}/slices"
    # 24 x 20 x 16 voxels of 1.5 x 1.5 x 2 mm: 36 x 30 x 32 mm.
    for plane, size in (("axial", (560, 467)), ("coronal", (560, 498)), ("sagittal", (525, 560))):
        shapes = set()
        for layer, mode in (("image", "L"), ("segmentation", "RGBA"), ("uncertainty", "RGBA")):
            shown = picture(project.get(f"{base}/{plane}/7?layer={layer}"))
            shapes.add(shown.size)
            assert shown.mode == mode
        assert shapes == {size}


def test_the_label_lies_where_the_expert_drew_it(project: Server) -> None:
    import nibabel as nib

    label = np.asarray(nib.load(project.labels / "case_01.nii.gz").dataobj)
    drawn = np.asarray(picture(project.get("/review/cases/case_01/slices/axial/8?layer=label")))
    rows, columns = np.nonzero(drawn[:, :, 3] == 255)
    x, y = np.nonzero(label[:, :, 8])
    scale = drawn.shape[1] / label.shape[0]
    # Radiological: the patient's right at the left, the front up; both axes run backward.
    assert columns.min() == pytest.approx((label.shape[0] - 1 - x.max()) * scale, abs=scale / 2)
    assert columns.max() == pytest.approx((label.shape[0] - x.min()) * scale, abs=scale / 2)
    assert rows.min() == pytest.approx((label.shape[1] - 1 - y.max()) * scale, abs=scale / 2)
    assert rows.max() == pytest.approx((label.shape[1] - y.min()) * scale, abs=scale / 2)


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/review/cases/unknown", 404, "unknown"),
        ("/review/cases/unknown/thumbnail.png", 404, "unknown"),
        ("/review/cases/case_00/slices/axial/16", 404, "0 to 15"),
        ("/review/cases/case_00/slices/axial/-1", 404, "0 to 15"),
        ("/review/cases/case_00/slices/oblique/1", 404, "axial"),
        ("/review/cases/case_00/slices/axial/1?layer=secret", 404, "uncertainty"),
        ("/review/cases/case_00/slices/axial/1?v=old", 409, "reload"),
        ("/review/models/v9/publish", 404, "v9"),
    ],
)
def test_what_there_is_not_is_refused_with_a_sentence(
    project: Server, path: str, status: int, word: str
) -> None:
    answer = project.get(path)
    assert answer.status_code == status
    assert word in answer.text


def test_a_picture_is_not_sent_twice_while_it_stays_true(project: Server) -> None:
    path = "/review/cases/case_00/thumbnail.png"
    first = project.get(path)
    assert first.headers["cache-control"] == "private, no-cache"
    tag = first.headers["etag"]
    assert project.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert "max-age" in project.get(f"{path}?v={tag.strip(chr(34))}").headers["cache-control"]


def test_the_model_looks_at_a_case_when_asked_and_the_page_then_shows_it(project: Server) -> None:
    assert "The model has not looked at this case yet" in page(project, "/review/cases/case_02").text
    assert project.get("/review/cases/case_02/profiles").json() == {}
    answer = project.post("/review/cases/case_02/draft")
    assert (answer.status_code, answer.history[0].status_code) == (200, 303)
    assert f"Segmentation and uncertainty by model {live(project)}" in " ".join(
        Page(answer.text).text.split()
    )
    profiles = project.get("/review/cases/case_02/profiles").json()
    assert {plane: len(means) for plane, means in profiles.items()} == {
        "sagittal": 24, "coronal": 20, "axial": 16,
    }  # fmt: skip


def test_a_version_goes_live_only_after_the_question_and_only_in_place_of_the_one_shown(
    project: Server,
) -> None:
    now = live(project)
    other = next(version for version in project.versions if version != now)
    asked = page(project, f"/review/models/{other}/publish")
    assert now in asked.text
    assert live(project) == now
    stale = project.post(f"/review/models/{other}/publish", data={"live": other})
    assert stale.status_code == 409
    assert live(project) == now
    foreign = project.post(
        f"/review/models/{other}/publish", data={"live": now}, headers={"Origin": "http://elsewhere.example"}
    )
    assert foreign.status_code == 403
    assert live(project) == now
    done = project.post(f"/review/models/{other}/publish", data={"live": now})
    assert done.status_code == 200
    assert live(project) == other
    assert project.post(f"/review/models/{now}/publish", data={"live": other}).status_code == 200
    assert live(project) == now


def test_a_project_without_a_model_or_a_label_has_a_page_and_the_model_cannot_look(
    empty_server: Server,
) -> None:
    found = page(empty_server, "/review")
    assert "No round has been completed yet" in found.text
    assert "Let the model look" not in found.text
    answer = empty_server.post(f"/review/cases/{empty_server.cases[0]}/draft")
    assert answer.status_code == 409
    assert "There is no model yet" in Page(answer.text).text
