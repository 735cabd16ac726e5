"""Rounds of training on toy scans: they learn, repeat, resume and survive what is broken."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ugmcl.toy_scans import FP32, BallStudy, labeled, tiny_config, unlabeled
from ugmcl import trainer
from ugmcl.budget import RemainingTime, plain_share
from ugmcl.checkpoint import Checkpoint
from ugmcl.config import Config, replace
from ugmcl.precision import Precision
from ugmcl.sampling import TrainingCase
from ugmcl.trainer import FitResult, Progress, evaluate, fit
from ugmcl.training_state import STATE_FILE, interrupted


def train(
    workdir: Path,
    config: Config,
    study: BallStudy | None = None,
    pool: tuple[str, ...] = ("u1", "u2", "u3"),
    cases: tuple[str, ...] = ("a", "b"),
    checks: tuple[str, ...] = (),
    **options: Any,
) -> FitResult:
    study = study or BallStudy(config.network.classes)
    return fit(
        config, labeled(*cases), unlabeled(*pool), labeled(*checks), study, workdir, precision=FP32, **options
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(value, other.state[name]) for name, value in one.state.items())


class StopAfter:
    """Asks a round to stop once it was asked `calls` times."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


EAGER = {"skip_below": 0.0}
"""The teacher takes part from the first step."""


@pytest.mark.parametrize("classes", [1, 2])
def test_the_loss_falls_and_the_structure_is_found(classes: int, tmp_path: Path) -> None:
    losses: list[float] = []
    config = tiny_config(
        classes, network={"dropout": 0.1}, train={"steps": 60, "learning_rate": 2e-2, "augmentation": "flips"}
    )
    result = train(
        tmp_path, config, checks=("v",), progress=lambda p: losses.append(p.losses.get("total", float("nan")))
    )
    assert sum(losses[50:60]) < 0.6 * sum(losses[:10])
    student = result.metrics["student"]
    assert student is not None
    assert student["dice"] > 0.7


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    config = tiny_config(train=EAGER)
    first = train(tmp_path / "1", config, seed=3)
    again = train(tmp_path / "2", config, seed=3)
    other = train(tmp_path / "3", config, seed=4)
    assert same(first.student, again.student)
    assert same(first.teacher, again.teacher)
    assert not same(first.student, other.student)


def many(count: int) -> tuple[str, ...]:
    return tuple(f"u{index:03d}" for index in range(count))


@pytest.mark.parametrize(
    ("sections", "pool", "edge", "broken"),
    [
        pytest.param({}, many(3), 24, (), id="the pool fits"),
        pytest.param({}, (), 24, (), id="no pool"),
        pytest.param({"train": {"pool_mib": 16}}, many(90), 32, (), id="the pool rotates through its memory"),
        pytest.param({}, many(4), 24, ("u001",), id="a case is broken"),
        pytest.param(
            {"network": {"norm": "batch"}, "train": {"teacher_buffers": "published"}},
            many(3),
            24,
            (),
            id="batch",
        ),
        pytest.param(
            {"train": {"optimizer": "sgd", "copy_paste": "on"}}, many(3), 24, (), id="sgd and copy-paste"
        ),
    ],
)
@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_a_stopped_round_resumes_to_the_bits_of_an_uninterrupted_one(
    sections: dict[str, dict[str, Any]],
    pool: tuple[str, ...],
    edge: int,
    broken: tuple[str, ...],
    stop_at: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if edge == 32:  # 128 KiB a case: too small to fill 8 MiB here, so 6 fill it
        original = trainer.TwoStreamSampler.__init__

        def small(self: Any, *arguments: Any) -> None:
            original(self, *arguments)
            self.unlabeled._capacity = 6 * 32**3 * 4

        monkeypatch.setattr(trainer.TwoStreamSampler, "__init__", small)
    config = tiny_config(**{**sections, "train": {"steps": 8, **EAGER, **sections.get("train", {})}})
    whole = train(tmp_path / "whole", config, BallStudy(broken=broken, edge=edge), pool)
    stopped = train(
        tmp_path / "cut", config, BallStudy(broken=broken, edge=edge), pool, should_stop=StopAfter(stop_at)
    )
    assert stopped.stopped
    assert stopped.steps == stop_at
    assert (tmp_path / "cut" / STATE_FILE).exists()
    steps: list[int] = []
    resumed = train(
        tmp_path / "cut",
        config,
        BallStudy(broken=broken, edge=edge),
        pool,
        progress=lambda p: steps.append(p.step),
    )
    assert steps == list(range(stop_at + 1, 9))
    assert same(resumed.student, whole.student)
    assert same(resumed.teacher, whole.teacher)
    assert resumed.set_aside == whole.set_aside
    assert not (tmp_path / "cut" / STATE_FILE).exists()


def test_a_killed_round_resumes_from_its_last_saved_state(tmp_path: Path) -> None:
    config = tiny_config(train={**EAGER, "save_every_s": 0.0})

    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "cut", config, progress=kill)
    steps: list[int] = []
    resumed = train(tmp_path / "cut", config, progress=lambda p: steps.append(p.step))
    assert steps == [4, 5, 6]
    assert same(resumed.student, train(tmp_path / "whole", config).student)


def test_a_round_ended_in_its_validation_trains_no_step_again(tmp_path: Path) -> None:
    class Ended(BaseException):
        pass

    def end(progress: Progress) -> None:
        if progress.phase == "validate":
            raise Ended

    cases, study = labeled("a", "b"), BallStudy()
    config = tiny_config(train={"steps": 4})
    with pytest.raises(Ended):
        fit(config, cases[:1], [], cases[1:], study, tmp_path, precision=FP32, progress=end)
    phases: list[str] = []
    resumed = fit(
        config, cases[:1], [], cases[1:], study, tmp_path, precision=FP32,
        progress=lambda progress: phases.append(progress.phase),
    )  # fmt: skip
    assert set(phases) == {"validate"}
    assert resumed.metrics["student"] is not None
    assert resumed.steps == 4
    assert not (tmp_path / STATE_FILE).exists()


@pytest.mark.parametrize(
    ("stop_at", "present", "learned"),
    [
        (4, "a1 b1", "a1 b1"),
        (4, "a1 b1 c1", "a1 b1 c1"),  # half of the steps are left: enough
        (4, "a1 b2", "a1 b2"),
        (5, "a1 b1 c1", "a1 b1"),
        (5, "a1 b2", "a1 b1"),  # a label that was replaced counts as its former self
        (5, "a1", "a1 b1"),  # one that was removed has been learned all the same
        (8, "a1 b1 c1", "a1 b1"),
    ],
)
def test_a_label_counts_as_learned_only_with_half_of_the_rounds_steps(
    stop_at: int, present: str, learned: str, tmp_path: Path
) -> None:
    config = tiny_config(train={"steps": 8})

    def fit_with(labels: str, **options: Any) -> FitResult:
        cases = [TrainingCase(name[0], f"{name[0]}.nii.gz", "copy", name) for name in labels.split()]
        return fit(config, cases, [], [], BallStudy(), tmp_path, precision=FP32, **options)

    fit_with("a1 b1", should_stop=StopAfter(stop_at))
    if stop_at == 5:  # and a label that joined late does not become learned by a second interruption
        fit_with(present, should_stop=StopAfter(1))
    resumed = fit_with(present)
    assert resumed.steps == 8
    assert resumed.learned == {name[0]: name for name in learned.split()}


def test_a_resumed_round_keeps_its_number_format(tmp_path: Path) -> None:
    config = tiny_config()
    half = Precision("bf16", "cpu", True, {"fp32": 2.0, "bf16": 1.0})
    fit(config, labeled("a"), [], [], BallStudy(), tmp_path, precision=half, should_stop=StopAfter(2))
    resumed = fit(config, labeled("a"), [], [], BallStudy(), tmp_path, device="cpu")
    assert resumed.precision == half.to_dict()


@pytest.mark.parametrize("junk", [b"", b"no state", None])
def test_a_state_that_is_damaged_or_foreign_is_passed_over(junk: bytes | None, tmp_path: Path) -> None:
    if junk is None:
        torch.save([1, 2], tmp_path / STATE_FILE)
    else:
        (tmp_path / STATE_FILE).write_bytes(junk)
    result = train(tmp_path, tiny_config())
    assert result.steps == 6
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_another_config_is_passed_over(tmp_path: Path) -> None:
    train(tmp_path, tiny_config(train={"steps": 9}), should_stop=StopAfter(5))
    steps: list[int] = []
    train(tmp_path, tiny_config(), progress=lambda p: steps.append(p.step))
    assert steps[0] == 1


def test_a_state_from_before_a_value_came_is_resumed(tmp_path: Path) -> None:
    config = tiny_config(train=EAGER)
    train(tmp_path, config, should_stop=StopAfter(2))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    del state["config"]["loss"]["dice"], state["config"]["train"]["data_device"]
    torch.save(state, tmp_path / STATE_FILE)
    steps: list[int] = []
    train(tmp_path, config, progress=lambda p: steps.append(p.step))
    assert steps == [3, 4, 5, 6]


def test_a_gradient_is_clipped_only_where_a_norm_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, norm: norms.append(norm))
    for clip in (3.0, 0.0):
        train(tmp_path, tiny_config(train={"steps": 2, "gradient_clip": clip}))
    assert norms == [3.0, 3.0]


def test_a_state_of_another_kind_of_device_is_resumed_with_fresh_random_voxels(tmp_path: Path) -> None:
    train(tmp_path, tiny_config(), should_stop=StopAfter(4))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    state["generator"] = torch.zeros(16, dtype=torch.uint8)  # as long as that of a GPU
    torch.save(state, tmp_path / STATE_FILE)
    steps: list[int] = []
    train(tmp_path, tiny_config(), progress=lambda p: steps.append(p.step))
    assert steps == [5, 6]


def test_one_label_and_no_pool_are_enough(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(train=EAGER), pool=(), cases=("a",))
    assert result.steps == 6
    assert result.metrics == {"student": None, "teacher": None}
    assert result.candidate == "teacher"
    assert result.best is result.teacher


def test_broken_cases_are_set_aside_and_the_round_goes_on(tmp_path: Path) -> None:
    study = BallStudy(broken=("b", "u2", "w"))
    result = train(tmp_path, tiny_config(train={"steps": 12, **EAGER}), study, checks=("v", "w"))
    assert result.steps == 12
    assert result.set_aside == {name: f"{name}.nii.gz is truncated." for name in ("b", "u2", "w")}
    assert result.metrics["student"] is not None


def test_a_round_without_a_readable_label_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.nii\.gz is truncated"):
        train(tmp_path, tiny_config(), BallStudy(broken=("a",)), cases=("a",))


@pytest.mark.parametrize(
    "options",
    [
        {"perturbation": "noise", "mc_stream": "all"},
        {"perturbation": "none", "mc_stream": "all", "augmentation": "published", "crop_offset": "published"},
        {"copy_paste": "on"},
        {"method": "supervised"},
        {"augmentation": "none", "optimizer": "sgd"},
        {"labeled_batch": 1, "unlabeled_batch": 3, "copy_paste": "on", "mc_stream": "all"},
    ],
)
@pytest.mark.parametrize("classes", [1, 2])
def test_every_option_trains(options: dict[str, Any], classes: int, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = train(
        tmp_path, tiny_config(classes, train={"steps": 2, **EAGER, **options}), progress=seen.append
    )
    assert result.steps == 2
    assert all(torch.isfinite(value).all() for value in result.teacher.state.values())
    consistent = seen[-1].losses["intra_task"] > 0
    assert consistent == (options.get("method") != "supervised")


@pytest.mark.parametrize(
    "options",
    [
        {"sdm_convention": "published", "sharpness": 1500.0},
        {"uncertainty_weighting": "soft", "cross_task_guidance": "mask"},
    ],
)
def test_every_loss_option_trains(options: dict[str, Any], tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(2, train={"steps": 2, **EAGER}, loss=options))
    assert all(torch.isfinite(value).all() for value in result.student.state.values())


def test_the_teacher_is_asked_only_once_the_consistency_weight_counts(tmp_path: Path) -> None:
    losses: list[float] = []
    config = tiny_config(train={"steps": 20, "skip_below": 0.006}, loss={"rampup_fraction": 1.0})
    train(tmp_path, config, progress=lambda p: losses.append(p.losses["intra_task"]))
    assert losses[:5] == [0.0] * 5  # 0.1 exp(-5 (1 - 4/20)^2) = 0.0041
    assert all(value > 0 for value in losses[5:])  # 0.1 exp(-5 (1 - 5/20)^2) = 0.0060


def test_the_first_steps_see_labels_only(tmp_path: Path) -> None:
    losses: list[float] = []
    config = tiny_config(train={"steps": 20, **EAGER}, loss={"supervised_fraction": 0.4})
    train(tmp_path, config, progress=lambda p: losses.append(p.losses["intra_task"]))
    assert losses[:8] == [0.0] * 8
    assert all(value > 0 for value in losses[8:])


def test_supervised_training_offers_its_student_as_the_teacher(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(train={"method": "supervised"}))
    assert same(result.student, result.teacher)


def test_without_memory_the_teacher_ends_as_the_student(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(network={"norm": "batch"}, train={"ema_decay": 0.0}))
    assert same(result.student, result.teacher)
    trailing = train(
        tmp_path, tiny_config(network={"norm": "batch"}, train={"ema_decay": 0.9, "ema_share": 1.0})
    )
    assert not same(trailing.student, trailing.teacher)


def test_the_better_of_student_and_teacher_is_the_candidate(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(), checks=("v",))
    student, teacher = result.metrics["student"], result.metrics["teacher"]
    assert student is not None
    assert teacher is not None
    assert set(student) >= {"dice", "hd95_mm"}
    assert result.candidate == ("student" if student["dice"] > teacher["dice"] else "teacher")


def test_a_warm_start_begins_where_the_published_model_ended(tmp_path: Path) -> None:
    config = tiny_config(train={"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0})
    published = train(tmp_path, tiny_config(), seed=1).student
    warm = train(tmp_path, config, seed=2, warm_start=published).student
    assert all(torch.allclose(warm.state[name], value, atol=1e-6) for name, value in published.state.items())
    other = tiny_config(network={"filters": (4, 6)}, train={"steps": 1})
    assert train(tmp_path, other, warm_start=published).steps == 1  # another network: ignored


def test_a_budget_cuts_the_steps(tmp_path: Path) -> None:
    config = tiny_config(train={"steps": 100_000, "budget_s": 0.5, "min_steps": 2})
    result = train(tmp_path, config)
    assert 2 <= result.steps < 500
    assert result.seconds < 3.0


def test_a_budget_never_cuts_below_the_smallest_round_nor_lengthens_it(tmp_path: Path) -> None:
    assert train(tmp_path, tiny_config(train={"steps": 50, "budget_s": 1e-6, "min_steps": 7})).steps == 7
    assert train(tmp_path, tiny_config(train={"steps": 5, "budget_s": 60.0, "min_steps": 2})).steps == 5


def test_a_cpu_budget_decides_the_steps_alone(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(train={"steps": 1, "cpu_budget_s": 0.6, "min_steps": 2}))
    assert result.steps > 5
    assert result.cpu_seconds < 2.0


def test_measuring_the_budget_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", tiny_config(train=EAGER))
    measured = train(tmp_path / "measured", tiny_config(train={**EAGER, "budget_s": 600.0, "min_steps": 2}))
    assert measured.steps == plain.steps
    assert same(plain.student, measured.student)


def test_progress_counts_down(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(tmp_path, tiny_config(), checks=("v",), progress=seen.append)
    steps = [p for p in seen if p.phase == "train"]
    assert [p.step for p in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].eta_s == 0.0
    assert all(p.steps == 6 for p in seen)
    assert set(steps[0].losses) == {
        "total", "supervised", "intra_task", "cross_task", "certain_fraction", "entropy",
    }  # fmt: skip
    assert seen[-1].phase == "validate"


def test_where_losses_are_read_seldom_progress_tells_of_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(train={**EAGER, "steps": 8, "save_every_s": 0.0})
    every: dict[int, dict[str, float]] = {}
    train(tmp_path / "often", config, progress=lambda p: every.update({p.step: p.losses}))
    monkeypatch.setattr(trainer, "steps_between_reports", lambda device: 3)
    seldom: dict[int, dict[str, float]] = {}
    result = train(tmp_path / "seldom", config, progress=lambda p: seldom.update({p.step: p.losses}))
    assert seldom == {step: every[step] for step in (3, 6, 8)}
    assert result.seconds > 0
    seldom.clear()
    stopped = train(
        tmp_path / "cut",
        config,
        should_stop=StopAfter(5),
        progress=lambda p: seldom.update({p.step: p.losses}),
    )
    assert (stopped.steps, set(seldom)) == (5, {3, 5})  # and what was done is saved, not what was last told
    assert same(train(tmp_path / "cut", config).student, result.student)


def test_losses_are_read_at_every_step_but_on_a_gpu() -> None:
    assert trainer.steps_between_reports("cpu") == 1
    assert trainer.steps_between_reports("cuda:1") == trainer.READ_BACK_EVERY


def test_on_a_cpu_it_makes_no_difference_where_scans_live(tmp_path: Path) -> None:
    options = {**EAGER, "copy_paste": "on"}
    plain = train(tmp_path / "plain", tiny_config(2, train=options))
    forced = train(tmp_path / "forced", tiny_config(2, train={**options, "data_device": "training"}))
    assert same(plain.student, forced.student)
    assert same(plain.teacher, forced.teacher)


def test_evaluation_reports_each_case(tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(2))
    aside: dict[str, str] = {}
    scores = evaluate(
        result.student,
        labeled("v", "x"),
        BallStudy(2, broken=("x",)),
        precision=FP32,
        uncertainty=True,
        set_aside=aside,
    )
    assert set(scores) == {"v"}
    assert set(scores["v"]) >= {"dice", "hd95_mm", "dice_by_class", "error_auroc", "score"}
    assert aside == {"x": "x.nii.gz is truncated."}


def test_steps_with_the_pool_are_timed_apart() -> None:
    left = RemainingTime(tiny_config(train=EAGER, loss={"supervised_fraction": 0.4}), 100)
    assert left.after(0) == 0.0
    for step in range(40):
        left.add(step, 1.0)
    assert left.after(20) == 20 + 60 * 2  # none with the pool was timed yet
    left.add(40, 3.0)
    assert left.after(41) == 59 * 3
    assert left.after(20) == 20 + 60 * 3


def test_half_of_a_default_run_sees_labels_only() -> None:
    assert plain_share(Config()) == 0.49  # 0.4, and a quarter of the ramp over 0.6 x 0.6
    assert plain_share(tiny_config(train=EAGER)) == 0.0


@pytest.mark.parametrize(
    ("now", "resumes"), [({"supervised_fraction": 0.0}, True), ({"supervised_fraction": 0.4}, False)]
)
def test_a_state_from_before_labels_came_first_resumes_only_what_it_was(
    now: dict[str, Any], resumes: bool, tmp_path: Path
) -> None:
    config = tiny_config(train={"steps": 6, **EAGER})
    train(tmp_path, config, should_stop=lambda: True)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    del state["config"]["loss"]["supervised_fraction"]
    torch.save(state, tmp_path / STATE_FILE)
    assert (interrupted(replace(config, loss=now), tmp_path / STATE_FILE) is not None) == resumes
