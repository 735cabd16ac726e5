"""Pools that never outgrow their memory, and the two streams of a step."""

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import BallStudy, labeled, tiny_config, unlabeled
from ugmcl.sampling import TrainingCase, TwoStreamSampler, VolumePool, prepare
from ugmcl.volume import Volume

MIB = 2**20


def pool_of(names: list[str], study: BallStudy, capacity_mib: float, seed: int = 0) -> VolumePool:
    return VolumePool(unlabeled(*names), study, tiny_config(), np.random.default_rng(seed), capacity_mib)


def test_a_prepared_case_has_its_label_its_distance_maps_and_its_foreground() -> None:
    volume = prepare(labeled("a")[0], BallStudy(2), tiny_config(2))
    assert volume.image.shape == (1, 24, 24, 24)
    assert volume.sdm.shape == (2, 24, 24, 24)
    assert ((volume.sdm[0] < 0) == (volume.label == 1)).all()
    assert 0 < len(volume.foreground) <= 4000
    assert all(volume.label[tuple(voxel)] > 0 for voxel in volume.foreground.tolist()[::50])


def test_supervised_training_pays_for_no_distance_maps() -> None:
    assert prepare(labeled("a")[0], BallStudy(), tiny_config(train={"method": "supervised"})).sdm is None


def test_the_pool_stays_under_its_memory_with_many_cases_and_seldom_loads() -> None:
    names = [f"case{index:03d}" for index in range(200)]
    study = BallStudy(edge=32)  # 128 KiB a case
    pool = pool_of(names, study, 1.0)
    largest, drawn = 0, set()
    for _ in range(600):
        assert pool.draw() is not None
        largest = max(largest, pool.resident_bytes)
    drawn = set(study.loads)
    assert largest <= 1.0 * MIB
    assert largest >= 0.8 * MIB
    assert sum(study.loads.values()) < 120  # 8 fill it, then a draw in ten brings one in
    assert len(drawn) > 40  # and the pool does rotate


def test_a_pool_that_fits_loads_each_case_once() -> None:
    study = BallStudy()
    pool = pool_of(["a", "b", "c"], study, 8)
    for _ in range(60):
        pool.draw()
    assert study.loads == {"a": 1, "b": 1, "c": 1}


def test_a_case_larger_than_the_pool_is_still_drawn() -> None:
    pool = pool_of(["a", "b"], BallStudy(edge=32), 0.1)
    assert all(pool.draw() is not None for _ in range(30))
    assert pool.resident_bytes <= 32**3 * 4


def test_a_broken_case_is_set_aside_with_its_reason_and_never_read_again() -> None:
    study = BallStudy(broken=("b",))
    pool = pool_of(["a", "b", "c"], study, 8)
    for _ in range(40):
        assert pool.draw() is not None
    assert pool.set_aside == {"b": "b.nii.gz is truncated."}
    assert study.loads["b"] == 1
    assert len(pool) == 2


def test_a_pool_of_broken_cases_is_empty() -> None:
    pool = pool_of(["a", "b"], BallStudy(broken=("a", "b")), 8)
    assert pool.draw() is None
    assert set(pool.set_aside) == {"a", "b"}


def test_a_missing_file_is_set_aside_too() -> None:
    def load(case: TrainingCase) -> tuple[Volume, None]:
        raise FileNotFoundError(f"{case.image} is gone.")

    pool = VolumePool(unlabeled("a"), load, tiny_config(), np.random.default_rng(0), 8)
    assert pool.draw() is None
    assert pool.set_aside == {"a": "a.nii.gz is gone."}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.zeros((24, 24, 23), np.uint8), r"\(24, 24, 23\).*\(24, 24, 24\)"),
        (np.full((24, 24, 24), 3, np.uint8), "values 3 to 3; allowed: 0 to 1"),
        (None, "'a' has no label"),
    ],
)
def test_a_label_that_cannot_be_learned_from_is_a_broken_case(label: np.ndarray | None, words: str) -> None:
    def load(case: TrainingCase) -> tuple[Volume, np.ndarray | None]:
        return BallStudy()(case)[0], label

    with pytest.raises(ValueError, match=words):
        prepare(labeled("a")[0], load, tiny_config())


@pytest.mark.parametrize("convention", ["between_voxels", "published"])
def test_the_streams_have_their_sizes_and_targets(convention: str) -> None:
    config = tiny_config(
        2, train={"labeled_batch": 3, "unlabeled_batch": 2}, loss={"sdm_convention": convention}
    )
    sampler = TwoStreamSampler(
        labeled("a"), unlabeled("b", "c"), BallStudy(2), config, np.random.default_rng(0)
    )
    batch = sampler.labeled_batch()
    assert batch.image.shape == (3, 1, 16, 16, 16)
    assert batch.label.shape == (3, 16, 16, 16)
    assert batch.label.dtype == torch.int64
    assert batch.sdm.shape == (3, 2, 16, 16, 16)
    assert batch.sdm.dtype == torch.float32
    pool = sampler.unlabeled_batch()
    assert pool.image.shape == (2, 1, 16, 16, 16)
    assert pool.label is None
    assert pool.sdm is None


def test_without_a_pool_there_is_no_second_stream() -> None:
    sampler = TwoStreamSampler(labeled("a"), [], BallStudy(), tiny_config(), np.random.default_rng(0))
    assert sampler.unlabeled_batch() is None


def test_training_without_a_readable_label_says_why() -> None:
    study = BallStudy(broken=("a",))
    sampler = TwoStreamSampler(labeled("a"), [], study, tiny_config(), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"a\.nii\.gz is truncated"):
        sampler.labeled_batch()
    empty = TwoStreamSampler([], [], study, tiny_config(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="there is none"):
        empty.labeled_batch()


@pytest.mark.parametrize("broken", [(), ("case3", "case7")])
def test_a_restored_pool_draws_on_as_if_it_had_never_stopped(broken: tuple[str, ...]) -> None:
    names = [f"case{index}" for index in range(30)]
    study = BallStudy(broken=broken, edge=32)
    pool = pool_of(names, study, 1.0)
    for _ in range(80):
        pool.draw()
    state, numbers = pool.state(), pool._rng.bit_generator.state
    rest = [pool.draw() for _ in range(60)]

    other = pool_of(names, BallStudy(broken=broken, edge=32), 1.0, seed=99)
    other._rng.bit_generator.state = numbers
    other.restore(state)
    for expected in rest:
        assert torch.equal(other.draw().image, expected.image)
    assert other.set_aside == pool.set_aside


def test_a_case_mended_meanwhile_is_drawn_again_after_a_restore() -> None:
    study = BallStudy(broken=("a",))
    pool = pool_of(["a", "b"], study, 8)
    for _ in range(10):
        pool.draw()
    study.broken = ()
    other = pool_of(["a", "b"], study, 8)
    other.restore(pool.state())
    assert other.set_aside == {}
    assert len(other) == 2


def test_cases_that_are_gone_are_passed_over_by_a_restore() -> None:
    pool = pool_of(["a", "b", "c"], BallStudy(), 8)
    for _ in range(20):
        pool.draw()
    smaller = pool_of(["b"], BallStudy(), 8)
    smaller.restore(pool.state())
    assert smaller.state() == {"resident": ["b"], "set_aside": {}}
