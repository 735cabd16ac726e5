"""Classes keep their values and codes; the user's table adds to the built-in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib.dicom.refusals import UnusableSegmentation
from lib.dicom.structures import Code, StructureMap, Terms, read_codes

LEFT = Code("7771000", "SCT", "Left")


def table(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "codes.json"
    path.write_text(json.dumps({"structures": list(entries)}))
    return path


def entry(**changes: object) -> dict[str, object]:
    kind = {"value": "81903006", "scheme": "99HOSPITAL", "meaning": "Scar of the left atrium"}
    return {"names": ["Wall Scar"], "type": kind, **changes}


def test_the_users_table_adds_to_the_built_in_one_and_wins(tmp_path: Path) -> None:
    codes = read_codes(table(tmp_path, entry(names=["Wall Scar", "SPLEEN"], color_rgb=[1, 2, 3])))
    classes = StructureMap.of({"wall scar": 1, "spleen": 2, "liver": 3}, codes)
    scar, spleen, liver = (structure.terms for structure in classes.structures)
    assert scar.type.scheme == "99HOSPITAL"
    assert spleen == scar
    assert liver.type.value == "10200004"
    assert scar.color_rgb == (1, 2, 3)


@pytest.mark.parametrize(
    "broken",
    [
        {"names": ["x"]},
        entry(names=None),
        entry(type={"value": "1", "scheme": "SCT"}),
        entry(type={"value": "1" * 17, "scheme": "SCT", "meaning": "x"}),
        entry(color_rgb=[0, 0]),
        entry(color_rgb=[0, 0, 256]),
        "text",
    ],
)
def test_a_table_of_another_form_is_refused_with_the_form(tmp_path: Path, broken: object) -> None:
    with pytest.raises(ValueError, match=r"cannot be used .* Its form is"):
        read_codes(table(tmp_path, broken))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json"):
        read_codes(tmp_path / "nowhere.json")


def test_the_stored_mapping_reads_back_as_it_was() -> None:
    classes = StructureMap.of({"left kidney": 1, "spleen": 5, "no code": 300})
    assert StructureMap.from_json(json.loads(json.dumps(classes.to_json()))) == classes
    for damaged in ({}, {"structures": [{"name": "x"}]}, None, {"structures": []}):
        with pytest.raises(ValueError, match="classes"):
            StructureMap.from_json(damaged)


def test_sides_of_one_organ_are_told_apart_by_modifier() -> None:
    classes = StructureMap.of({"left kidney": 1, "right kidney": 2})
    kidney = Code("64033007", "SCT", "Kidney")
    assert classes.find("Segment 1", Terms(kidney, modifier=LEFT)).value == 1
    with pytest.raises(UnusableSegmentation, match="no class of this project"):
        classes.find("Segment 1", Terms(kidney))


def test_label_matches_whatever_its_case_and_code() -> None:
    classes = StructureMap.of({"spleen": 1, "liver": 2})
    assert classes.find(" Spleen ", Terms()).value == 1
    assert classes.find("spleen", Terms(Code("1", "99OTHER", "spleen by another code"))).value == 1


def test_the_generic_type_names_no_class() -> None:
    classes = StructureMap.of({"one": 1, "two": 2})
    assert Terms().key is None
    with pytest.raises(UnusableSegmentation, match="the classes are one, two"):
        classes.find("three", Terms())


def test_two_classes_of_one_code_need_their_labels() -> None:
    classes = StructureMap.of({"left atrium": 1, "atrium": 2})
    terms = classes.structures[0].terms
    assert classes.find("atrium", terms).value == 2
    with pytest.raises(UnusableSegmentation):
        classes.find("Segment 1", terms)


@pytest.mark.parametrize("labels", [{}, {"a": 0}, {"a": 65536}, {"a": 1, "A": 2}, {"a": 1, "b": 1}, {"": 1}])
def test_classes_need_names_and_values_of_their_own(labels: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="class"):
        StructureMap.of(labels)


def test_every_built_in_code_fits_its_attributes_and_is_in_the_dictionary() -> None:
    from pydicom.sr.codedict import codes

    for terms in read_codes().values():
        for code in (terms.type, terms.category, terms.modifier):
            if code is not None:
                known = {
                    getattr(codes.SCT, name).value for name in codes.SCT.dir(code.meaning.replace(" ", ""))
                }
                assert code.value in known, code
