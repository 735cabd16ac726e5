"""Configurations travel as plain data, and what is not allowed is refused by a sentence that says what is."""

import json
from typing import Any

import pytest

from tests.ugmcl.toy_scans import tiny_config
from ugmcl import preset
from ugmcl.config import (
    LATER_VALUES,
    Config,
    InferConfig,
    LossConfig,
    NetworkConfig,
    PreprocessConfig,
    TrainConfig,
    replace,
)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        tiny_config(3, train={"augmentation": "flips", "budget_s": 12.5}),
        preset("paper-la", ["a"], [(100, 100, 80)], [(0.6, 0.6, 0.6)]),
    ],
)
def test_a_config_survives_json(config: Config) -> None:
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_whole_numbers_stand_for_decimals_but_not_the_reverse() -> None:
    plain = Config().to_dict()
    plain["train"]["learning_rate"] = 1
    assert Config.from_dict(plain).train.learning_rate == 1.0
    plain["train"]["steps"] = 12.0
    assert Config.from_dict(plain).train.steps == 12
    plain["train"]["steps"] = 12.5
    with pytest.raises(ValueError, match=r"config\.train\.steps is 12\.5; it must be a whole number"):
        Config.from_dict(plain)


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        ("train", "stepz", 3, "config.train has no stepz; it has .*steps"),
        ("train", "steps", "many", "config.train.steps is 'many'; it must be a whole number"),
        ("train", "steps", float("inf"), "whole number"),
        ("train", "steps", True, "whole number"),
        ("train", "learning_rate", float("nan"), "config.train.learning_rate is nan; it must be a number"),
        ("train", "method", 3, "config.train.method is 3; it must be text"),
        ("preprocess", "patch", 32, "config.preprocess.patch is 32; it must be a list"),
        ("preprocess", "patch", [32, 32], "it must have 3 entries"),
        ("preprocess", "spacing_mm", [1, "x", 1], "config.preprocess.spacing_mm is 'x'; it must be a number"),
    ],
)
def test_plain_data_that_does_not_fit_is_refused_by_name(
    section: str, name: str, value: Any, words: str
) -> None:
    plain = Config().to_dict()
    plain[section][name] = value
    with pytest.raises(ValueError, match=words):
        Config.from_dict(plain)


def test_a_section_must_be_a_table_and_known() -> None:
    with pytest.raises(ValueError, match=r"config\.train is 3"):
        Config.from_dict({"train": 3})
    with pytest.raises(ValueError, match=r"config has no trian; it has .*train"):
        Config.from_dict({"trian": {}})


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (PreprocessConfig, {"spacing_mm": (1.0, 0.0, 1.0)}, "above 0"),
        (PreprocessConfig, {"patch": (16, 4, 16)}, "at least 8"),
        (PreprocessConfig, {"clip_percentiles": (50.0, 50.0)}, "0 <= low < high <= 100"),
        (PreprocessConfig, {"padding": "mirror"}, "'mirror'; allowed: minimum, zero"),
        (NetworkConfig, {"classes": 0}, "at least 1"),
        (NetworkConfig, {"filters": (4,), "convolutions": (1,)}, "at least 2"),
        (NetworkConfig, {"filters": (4, 8), "convolutions": (1, 1, 1)}, "same number of levels"),
        (NetworkConfig, {"filters": (4, 0), "convolutions": (1, 1)}, "at least 1"),
        (NetworkConfig, {"dropout": 1.0}, r"\[0, 1\)"),
        (NetworkConfig, {"norm": "layer"}, "'layer'; allowed: instance, batch, group"),
        (NetworkConfig, {"initialization": "zero"}, "allowed: kaiming, default"),
        (NetworkConfig, {"sdm_head": "shared"}, "allowed: separate, published"),
        (LossConfig, {"beta": 1.5}, r"\[0, 1\]"),
        (LossConfig, {"cross_task_weight": -1.0}, "must not be negative"),
        (LossConfig, {"rampup_fraction": 0.0}, r"\(0, 1\]"),
        (LossConfig, {"supervised_fraction": 1.0}, r"supervised_fraction is 1\.0; need \[0, 1\)"),
        (LossConfig, {"threshold_start": 1.1}, r"\[0, 1\]"),
        (LossConfig, {"sharpness": 0.0}, "above 0"),
        (LossConfig, {"uncertainty_weighting": "hard"}, "allowed: mask, soft, none"),
        (LossConfig, {"cross_task_guidance": "soft"}, "allowed: published, mask"),
        (LossConfig, {"sdm_convention": "voxel"}, "allowed: between_voxels, published"),
        (TrainConfig, {"method": "semi"}, "allowed: ug_mcl, supervised"),
        (TrainConfig, {"optimizer": "adam"}, "allowed: adamw, sgd"),
        (TrainConfig, {"teacher_buffers": "none"}, "allowed: ema, published"),
        (TrainConfig, {"mc_stream": "labeled"}, "allowed: unlabeled, all"),
        (TrainConfig, {"perturbation": "weak"}, "allowed: strong, noise, none"),
        (TrainConfig, {"copy_paste": "maybe"}, "allowed: off, on"),
        (TrainConfig, {"augmentation": "some"}, "allowed: full, flips, published, none"),
        (TrainConfig, {"crop_offset": "last"}, "allowed: inclusive, published"),
        (TrainConfig, {"steps": 0}, "steps is 0; it must be at least 1"),
        (TrainConfig, {"labeled_batch": 0}, "at least 1"),
        (TrainConfig, {"ema_decay": 1.0}, r"\[0, 1\)"),
        (TrainConfig, {"foreground_crops": 2.0}, r"\[0, 1\]"),
        (TrainConfig, {"pool_mib": 1}, "at least 16"),
        (TrainConfig, {"flip_axes": (3,)}, "allowed: 0, 1, 2"),
        (InferConfig, {"mc_samples": 65}, "allowed: 1 to 64"),
        (InferConfig, {"overlap": 1.0}, "allowed: 0 to 0.9"),
        (InferConfig, {"window_batch": 0}, "at least 1"),
        (InferConfig, {"measure": "variance"}, "predictive_entropy, mutual_information, head_disagreement"),
    ],
)
def test_each_refusal_says_what_is_allowed(section: type, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        section(**values)


def test_sections_must_fit_together() -> None:
    with pytest.raises(ValueError, match=r"network\.classes is 1 but 2 labels"):
        Config(labels=("a", "b"))
    with pytest.raises(ValueError, match="repeat a name"):
        Config(labels=("a", "a"), network=NetworkConfig(classes=2))
    with pytest.raises(ValueError, match="at least one foreground class"):
        Config(labels=())
    with pytest.raises(ValueError, match=r"\(17, 16, 16\) must be a multiple of 2"):
        tiny_config(preprocess={"patch": (17, 16, 16)})


def test_replacing_values_leaves_the_original_alone() -> None:
    config = Config()
    changed = replace(config, train={"steps": 7}, loss={"beta": 0.5})
    assert (changed.train.steps, changed.loss.beta) == (7, 0.5)
    assert config == Config()
    assert changed.network is config.network


def test_values_that_came_later_identify_a_run_only_where_they_are_used() -> None:
    plain = replace(Config(), loss={"supervised_fraction": 0.0})  # the one default that is not the first's
    changed = tiny_config(
        loss={"dice": "published", "supervised_fraction": 0.4}, train={"gradient_clip": 0.0}
    )
    for section, later in LATER_VALUES.items():
        assert later.items() <= plain.to_dict()[section].items()  # as the first runs had them
        assert not set(later) & set(plain.identity()[section])
    assert changed.identity()["loss"]["dice"] == "published"
    assert changed.identity()["train"]["gradient_clip"] == 0.0
    assert "compile" not in changed.identity()["train"]
    assert plain.identity()["train"]["steps"] == plain.train.steps


@pytest.mark.parametrize(("name", "fraction"), [("paper-la", 0.0), ("default", 0.4)])
def test_a_paper_project_from_before_labels_came_first_stays_the_papers(name: str, fraction: float) -> None:
    kept = Config(preset=name).to_dict()
    del kept["loss"]["supervised_fraction"]
    assert Config.from_dict(kept).loss.supervised_fraction == fraction


def test_how_scans_are_segmented_makes_no_other_training_run() -> None:
    assert tiny_config(infer={"mirror": "off", "mc_samples": 5}).identity() == tiny_config().identity()


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"augmentation": "full", "flip_axes": (0, 1)}, True),
        ({"augmentation": "full", "flip_axes": (1,)}, False),
        ({"augmentation": "flips"}, True),
        ({"augmentation": "none"}, False),
    ],
)
def test_inference_mirrors_only_what_training_mirrored(train: dict[str, Any], expected: bool) -> None:
    assert tiny_config(train=train, infer={"mirror": "trained"}).mirrors is expected
    assert not tiny_config(train=train, infer={"mirror": "off"}).mirrors


def test_passes_drop_no_more_than_training_did() -> None:
    assert tiny_config(network={"dropout": 0.5}, infer={"mc_dropout": 0.2}).mc_dropout == 0.2
    assert tiny_config(network={"dropout": 0.1}, infer={"mc_dropout": 0.2}).mc_dropout == 0.1
    with pytest.raises(ValueError, match=r"mc_dropout is 0\.0; it must lie in \(0, 1\]"):
        tiny_config(infer={"mc_dropout": 0.0})


def test_the_share_the_teacher_remembers_makes_another_run_only_where_it_has_an_effect() -> None:
    long, short = {"steps": 2000, "ema_decay": 0.99}, {"steps": 400, "ema_decay": 0.99}
    assert "ema_share" not in tiny_config(train=long).identity()["train"]
    assert tiny_config(train=short).identity()["train"]["ema_share"] == 0.05
    assert "ema_share" not in tiny_config(train={**short, "ema_share": 1.0}).identity()["train"]
