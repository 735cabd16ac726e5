"""Methods as configurations: what each trains, and that only its own terms count."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ugmcl.toy_scans import FP32, BallStudy, labeled, tiny_config, unlabeled
from ugmcl import training_step
from ugmcl.config import Config, LossConfig, TrainConfig, replace
from ugmcl.methods import LOSS_FIELDS, METHODS, TRAIN_FIELDS, known_methods, list_methods, method_config
from ugmcl.presets import preset
from ugmcl.sampling import TwoStreamSampler
from ugmcl.trainer import FitResult, fit
from ugmcl.training_state import TrainingState, start

TRAINED = {
    # intra-task, cross-task, entropy, distance head, teacher, unlabeled patches
    "supervised": (False, False, False, False, False, False),
    "mean_teacher": (True, False, False, False, True, True),
    "ua_mt": (True, False, False, False, True, True),
    "dtc": (False, True, False, True, False, True),
    "entropy_minimization": (False, False, True, False, False, True),
    "ug_mcl": (True, True, False, True, True, True),
    "ug_mcl_plus": (True, True, False, True, True, True),
    "ablation_seg": (False, False, False, False, False, False),
    "ablation_seg_dis": (False, False, False, True, False, False),
    "ablation_seg_itc": (True, False, False, False, True, True),
    "ablation_seg_dis_itc": (True, False, False, True, True, True),
    "ablation_seg_dis_ctc": (False, True, False, True, False, True),
    "ablation_seg_dis_itc_ctc": (True, True, False, True, True, True),
}
"""What each method is said to have, by hand from the papers."""


def base(classes: int = 1) -> Config:
    return tiny_config(classes, train={"steps": 3, "skip_below": 0.0, "ema_share": 1.0})


def train(name: str, workdir: Path, losses: list[dict[str, float]] | None = None) -> FitResult:
    note = (lambda _: None) if losses is None else (lambda progress: losses.append(progress.losses))
    return fit(
        method_config(name, base()), labeled("a", "b"), unlabeled("u", "v"), [], BallStudy(), workdir,
        precision=FP32, progress=note,
    )  # fmt: skip


def run_of(config: Config) -> tuple[TrainingState, TwoStreamSampler]:
    run = start(config, None, FP32, 0)
    return run, TwoStreamSampler(labeled("a", "b"), unlabeled("u", "v"), BallStudy(), config, run.rng)


def test_every_method_is_described_here() -> None:
    assert set(TRAINED) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_what_it_says_and_nothing_else(name: str, tmp_path: Path) -> None:
    intra, cross, entropy, distances, teacher, unlabeled_patches = TRAINED[name]
    config = method_config(name, base())
    assert (config.has_teacher, config.uses_unlabeled) == (teacher, unlabeled_patches)
    assert config.learns_distances == distances
    losses: list[dict[str, float]] = []
    result = train(name, tmp_path, losses)
    first = 2 if name == "ug_mcl_plus" else 0  # of 3 steps, 0.4 are for the labels alone
    assert [step["certain_fraction"] for step in losses[:first]] == [0.0] * first
    for step in losses[first:]:
        assert (step["intra_task"] > 0, step["cross_task"] > 0, step["entropy"] > 0) == (
            intra,
            cross,
            entropy,
        )
        assert step["supervised"] > 0
        assert (step["certain_fraction"] > 0) == teacher
    fresh = start(config, None, FP32, 0).student.state_dict()
    moved = {key for key, value in result.student.state.items() if not torch.equal(value, fresh[key])}
    assert "encoder.0.0.0.weight" in moved
    assert "segmentation_head.weight" in moved
    assert ("sdm_head.weight" in moved) == distances
    same = all(torch.equal(value, result.teacher.state[key]) for key, value in result.student.state.items())
    assert same != teacher


@pytest.mark.parametrize("name", METHODS)
def test_the_total_is_the_weighted_sum_of_the_terms(name: str) -> None:
    config = replace(method_config(name, base()), loss={"rampup_fraction": 0.4})
    run, sampler = run_of(config)
    run.step = 2  # of 3 steps, the ramp is over at 0.4 x 3 or 1.2 + 0.4 x 1.8: every weight is the final one
    terms = training_step.train_step(run, sampler)
    weights = {"dtc": (0, 1.0, 0), "entropy_minimization": (0, 0, 0.1), "ablation_seg_dis_ctc": (0, 0.1, 0)}
    intra, cross, _, _, _, _ = TRAINED[name]
    expected = weights.get(name, (0.1 if intra else 0, 0.1 if cross else 0, 0))
    total = terms.supervised + sum(
        weight * term
        for weight, term in zip(expected, (terms.intra_task, terms.cross_task, terms.entropy), strict=True)
    )
    assert terms.total.item() == pytest.approx(float(total), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "passes"),
    [("mean_teacher", 0), ("ua_mt", 2), ("ug_mcl", 2), ("dtc", 0), ("entropy_minimization", 0)],
)
def test_dropout_passes_run_only_where_the_uncertainty_has_a_say(
    name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = training_step.stochastic_passes

    def counted(network: Any, features: Any, samples: int, *arguments: Any, **options: Any) -> Any:
        seen.append(samples)
        return original(network, features, samples, *arguments, **options)

    monkeypatch.setattr(training_step, "stochastic_passes", counted)
    run, sampler = run_of(method_config(name, base()))
    training_step.train_step(run, sampler)
    assert seen == [passes] * (passes > 0)


def test_no_distance_map_is_made_where_none_is_learned() -> None:
    for name in ("mean_teacher", "ua_mt", "entropy_minimization"):
        _, sampler = run_of(method_config(name, base()))
        assert sampler.labeled_batch().sdm is None
    _, sampler = run_of(method_config("dtc", base()))
    assert sampler.labeled_batch().sdm is not None


def test_the_mean_teachers_target_is_its_pass_without_dropout() -> None:
    run, sampler = run_of(method_config("mean_teacher", base()))
    images = sampler.unlabeled_batch()
    assert images is not None
    lesson = training_step.teach(run, images.image)
    network = run.teacher.network
    with torch.no_grad():
        expected = network.decode(network.encode(images.image)).logits.softmax(dim=1)
    assert torch.equal(lesson.probs, expected)
    assert lesson.sdm is None
    assert torch.equal(lesson.weights, torch.ones_like(lesson.weights))


@pytest.mark.parametrize(
    ("name", "seen"), [("ua_mt", 1), ("ug_mcl", 3), ("dtc", 3), ("entropy_minimization", 3)]
)
def test_the_consistency_terms_see_the_patches_their_papers_say(
    name: str, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    original = training_step.consistency_terms

    def counted(student: Any, *arguments: Any) -> Any:
        counts.append(len(student.logits))
        return original(student, *arguments)

    monkeypatch.setattr(training_step, "consistency_terms", counted)
    run, sampler = run_of(method_config(name, base()))
    training_step.train_step(run, sampler)
    assert counts == [seen]  # 2 labeled and 1 unlabeled patch


def test_ug_mcl_plus_is_the_default_whatever_the_shared_values() -> None:
    shared = preset("paper-la", ("organ1",), [(112, 112, 80)], [(1.0, 1.0, 1.0)])
    config = method_config("ug_mcl_plus", shared)
    assert all(getattr(config.loss, name) == getattr(LossConfig(), name) for name in LOSS_FIELDS)
    assert all(getattr(config.train, name) == getattr(TrainConfig(), name) for name in TRAIN_FIELDS)
    assert config.train.steps == shared.train.steps
    assert config.network == shared.network


def test_ug_mcl_under_the_papers_values_is_the_papers_preset() -> None:
    shared = preset("paper-la", ("organ1",), [(112, 112, 80)], [(1.0, 1.0, 1.0)])
    plain = {"mix_weight": 0.0}  # without exchanged boxes it has no part
    assert method_config("ug_mcl", shared) == replace(shared, loss=plain)


def test_methods_share_everything_but_the_objective() -> None:
    shared = base()
    for name in METHODS:
        config = method_config(name, shared)
        same = {
            "loss": {field: getattr(shared.loss, field) for field in LOSS_FIELDS},
            "train": {field: getattr(shared.train, field) for field in TRAIN_FIELDS},
        }
        assert replace(config, **same) == shared


def test_equal_rows_are_run_once_and_unknown_names_are_refused() -> None:
    assert known_methods(["ablation_seg", "supervised", "ablation_seg_dis_itc_ctc"]) == [
        "supervised",
        "ug_mcl",
    ]
    for name, method in METHODS.items():
        if method.same_as:
            assert method_config(name, base()) == method_config(method.same_as, base())
    with pytest.raises(ValueError, match=r"no method 'ugmcl'; choose from: supervised, mean_teacher, ua_mt"):
        known_methods(["ugmcl"])
    assert all(name in list_methods() for name in METHODS)
