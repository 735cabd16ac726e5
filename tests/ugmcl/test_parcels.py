"""Data there and results back in parts: whole again, or refused with what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_packs import experiment, write_balls
from ugmcl.checkpoint import load_checkpoint
from ugmcl.pack import Pack
from ugmcl.parcels import cut, join, main, unwrap, wrap

KIB = 1 / 1024


def some_file(folder: Path, size: int = 10_000) -> Path:
    path = folder / "some.data"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return path


def test_parts_have_one_size_and_join_to_the_same_bytes(tmp_path: Path) -> None:
    path = some_file(tmp_path)
    parts = cut(path, tmp_path / "parts", 4 * KIB)
    assert [part.stat().st_size for part in parts] == [3334, 3334, 3332]
    assert join(tmp_path / "parts", tmp_path / "there") == [tmp_path / "there" / "some.data"]
    assert (tmp_path / "there" / "some.data").read_bytes() == path.read_bytes()
    assert [one.name for one in (tmp_path / "there").iterdir()] == ["some.data"]


def test_a_pack_survives_its_journey(tmp_path: Path) -> None:
    path = write_balls(tmp_path / "balls.npz")
    assert main(["cut", str(path), str(tmp_path / "parts"), "--part-mib", "0.1"]) == 0
    assert len(list((tmp_path / "parts").iterdir())) > 1
    assert main(["join", str(tmp_path / "parts"), str(tmp_path / "there")]) == 0
    assert Pack(tmp_path / "there" / "balls.npz").digest == Pack(path).digest


def test_missing_and_damaged_parts_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = cut(some_file(tmp_path), tmp_path / "parts", 4 * KIB)
    content = parts[1].read_bytes()
    parts[1].unlink()
    assert main(["join", str(tmp_path / "parts"), str(tmp_path)]) == 2
    assert "some.data lacks the part(s) 2 of 3" in capsys.readouterr().err
    parts[1].write_bytes(content[:-1] + b"\0\0")
    with pytest.raises(ValueError, match=r"some\.data are damaged"):
        join(tmp_path / "parts", tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_what_cannot_be_cut_or_joined_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size above 0"):
        cut(some_file(tmp_path), tmp_path, 0)
    with pytest.raises(ValueError, match="no file"):
        cut(tmp_path / "absent", tmp_path, 1)
    with pytest.raises(ValueError, match="holds no parts"):
        join(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="no finished run"):
        wrap(tmp_path, tmp_path / "out", 1, 8, ())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    pack = write_balls(folder / "balls.npz")
    assert experiment(pack, folder / "work", "--methods", "ug_mcl,supervised") == 0
    return folder / "work"


def test_finished_runs_come_back_with_half_precision_weights(work: Path, tmp_path: Path) -> None:
    parts = wrap(work, tmp_path / "parts", 0.2, 8, ("student",))
    assert all(part.stat().st_size <= 0.2 * 2**20 for part in parts)
    names = unwrap(tmp_path / "parts", tmp_path / "here")
    assert names == ["balls_2labels_supervised_seed0", "balls_2labels_ug_mcl_seed0"]
    for name in names:
        run, back = work / name, tmp_path / "here" / name
        assert {path.name for path in back.iterdir()} == {"run.json", "predictions.npz", "student-half.pt"}
        for file in ("run.json", "predictions.npz"):
            assert (back / file).read_bytes() == (run / file).read_bytes()
        whole, half = load_checkpoint(run / "student.pt"), load_checkpoint(back / "student-half.pt")
        assert half.config == whole.config
        assert half.meta["weights"] == "float16"
        built = half.build().state_dict()
        for key, value in whole.state.items():
            assert built[key].dtype == value.dtype
            torch.testing.assert_close(built[key], value, rtol=1e-3, atol=1e-5)
    assert unwrap(tmp_path / "parts", tmp_path / "here") == names  # again changes nothing


def test_too_much_to_send_is_refused_and_weights_may_stay(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 runs fill \d+ parts of 0\.01 MiB; allowed: 3"):
        wrap(work, tmp_path / "parts", 0.01, 3, ("student", "teacher"))
    words = ["wrap", str(work), str(tmp_path / "parts"), "--part-mib", "1", "--weights", ""]
    assert main(words) == 0
    unwrap(tmp_path / "parts", tmp_path / "here")
    assert not list((tmp_path / "here").glob("*/*.pt"))


def test_another_run_of_the_same_name_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    wrap(work, tmp_path / "parts", 1, 8, ())
    there = tmp_path / "here" / "balls_2labels_ug_mcl_seed0"
    there.mkdir(parents=True)
    (there / "run.json").write_text(json.dumps({"fingerprint": "another"}))
    with pytest.raises(ValueError, match="holds another run of that name"):
        unwrap(tmp_path / "parts", tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [there.name]
