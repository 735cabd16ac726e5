"""Model files: plain data only, whole or not at all."""

import pickle
from pathlib import Path

import pytest
import torch

from tests.ugmcl.toy_scans import tiny_config
from ugmcl.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_atomic
from ugmcl.network import DualTaskVNet


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = tiny_config(2, network={"norm": "batch"})
    return Checkpoint.of(DualTaskVNet(config.network), config, role="student", step=3, metrics={"dice": 0.5})


def test_a_checkpoint_comes_back_as_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.pt", checkpoint)
    back = load_checkpoint(tmp_path / "m.pt")
    assert back.config == checkpoint.config
    assert back.meta == {"role": "student", "step": 3, "metrics": {"dice": 0.5}}
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(back.build()(image).logits, checkpoint.build()(image).logits)
    assert not back.build().training
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_a_snapshot_does_not_follow_its_network() -> None:
    config = tiny_config()
    network = DualTaskVNet(config.network)
    snapshot = Checkpoint.of(network, config)
    before = snapshot.state["segmentation_head.bias"].clone()
    with torch.no_grad():
        network.segmentation_head.bias.add_(1.0)
    assert torch.equal(snapshot.state["segmentation_head.bias"], before)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_file_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, write in (
        ("torch.pt", torch.save),
        ("pickle.pt", lambda o, f: Path(f).write_bytes(pickle.dumps(o))),
    ):
        write({"format": "ugmcl-checkpoint-1", "config": Payload()}, tmp_path / name)
        with pytest.raises(ValueError, match="not a readable model file"):
            load_checkpoint(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"no model",
        bytes(range(256)) * 40,
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x02}q\x00.",
        b'{"a": 1}',
        b"\x1f\x8b",
    ],
)
def test_junk_is_refused_with_a_sentence(junk: bytes, tmp_path: Path) -> None:
    (tmp_path / "junk.pt").write_bytes(junk)
    with pytest.raises(ValueError, match=r"^junk\.pt is not .*\.$"):
        load_checkpoint(tmp_path / "junk.pt")


def test_a_truncated_file_is_refused_wherever_it_was_cut(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save_checkpoint(path, checkpoint)
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.7, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"m\.pt is not a readable model file"):
            load_checkpoint(path)


@pytest.mark.parametrize("other", [[1, 2], {"format": "other"}, {"state": {}}, torch.zeros(2)])
def test_another_programs_file_is_refused(other: object, tmp_path: Path) -> None:
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"other\.pt is not a ugmcl-checkpoint-1 file; .* choose another file"
    ):
        load_checkpoint(tmp_path / "other.pt")


def test_a_file_without_all_its_parts_is_refused(tmp_path: Path) -> None:
    torch.save({"format": "ugmcl-checkpoint-1", "config": {}}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"half\.pt is a damaged model file: it has no meta, state"):
        load_checkpoint(tmp_path / "half.pt")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    write_atomic(path, {"a": torch.ones(2)})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        write_atomic(path, {"a": torch.ones(2), "b": lambda: None})
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]
