"""config: every number of the method, with its unit, range and source; in and out as plain data.

Sources: **[P]** Zhang et al., "Uncertainty-guided mutual consistency learning for semi-supervised medical
image segmentation", Artificial Intelligence in Medicine 2023 (arXiv 2112.02508v2); **[C]** the code its
authors released; **[D]** the dual-task consistency code whose conventions [P] builds on; **[M]** measured by
us, see docs/results.md. Where a flaw of [C] or [D] is mended, the option's other value, `"published"`,
reproduces the published behavior.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from .plain_values import built, choice, plain, require
from .schedules import pool_rampup, teacher_memory


@dataclass(frozen=True)
class PreprocessConfig:
    """How a scan becomes the network's input; used unchanged by training and inference."""

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Working voxel size in mm, axes R, A, S; > 0. Median of the project's scans, coarsened to fit the
    device."""
    patch: tuple[int, int, int] = (48, 64, 48)
    """Training patch and inference window in working voxels; each a multiple of 2**(levels - 1)."""
    clip_percentiles: tuple[float, float] = (1.0, 99.0)
    """Intensities are clipped to these percentiles of the scan, in [0, 100] [M]; (0, 100) clips nothing."""
    padding: str = "minimum"
    """What surrounds a scan smaller than the patch: "minimum" of the normalized scan, or "zero" as published
    [C]."""

    def __post_init__(self) -> None:
        require(min(self.spacing_mm) > 0, f"spacing_mm is {self.spacing_mm}; every value must be above 0.")
        require(min(self.patch) >= 8, f"patch is {self.patch}; every value must be at least 8 voxels.")
        low, high = self.clip_percentiles
        require(
            0 <= low < high <= 100,
            f"clip_percentiles is {self.clip_percentiles}; need 0 <= low < high <= 100.",
        )
        choice("padding", self.padding, ("minimum", "zero"))


@dataclass(frozen=True)
class NetworkConfig:
    """The dual-task V-Net: one encoder-decoder, a segmentation head and a signed distance head."""

    classes: int = 1
    """Foreground classes, >= 1."""
    filters: tuple[int, ...] = (16, 32, 64, 96)
    """Channels per level, finest first [M]; [P] (16, 32, 64, 128, 256)."""
    convolutions: tuple[int, ...] = (1, 2, 2, 2)
    """3x3x3 convolutions per level [M]; [P] (1, 2, 3, 3, 3)."""
    norm: str = "instance"
    """"instance" learns in few steps and has no running buffers [M]; "batch" as in [P]; "group" (8 groups).
    """
    dropout: float = 0.5
    """Probability of dropping a whole channel after the bottleneck and before the heads, in [0, 1) [P]."""
    initialization: str = "kaiming"
    """"kaiming" (He et al. 2015) or "default" (PyTorch's, as published)."""
    sdm_head: str = "separate"
    """"separate" 1x1x1 convolution [P]; "published": tanh of the segmentation logits as in [C], where the
    cross-task term contradicts itself."""

    def __post_init__(self) -> None:
        require(self.classes >= 1, f"classes is {self.classes}; a project has at least 1 foreground class.")
        require(
            len(self.filters) == len(self.convolutions) >= 2 and min(*self.filters, *self.convolutions) >= 1,
            f"filters are {self.filters} and convolutions {self.convolutions}; "
            "both need the same number of levels, at least 2, and values of at least 1.",
        )
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}; it must lie in [0, 1).")
        choice("norm", self.norm, ("instance", "batch", "group"))
        choice("initialization", self.initialization, ("kaiming", "default"))
        choice("sdm_head", self.sdm_head, ("separate", "published"))

    @property
    def stride(self) -> int:
        """Patch edges must be multiples of this many voxels."""
        return int(2 ** (len(self.filters) - 1))


@dataclass(frozen=True)
class LossConfig:
    """Terms, weights and targets of the loss ([P] Eq. 2 to 7)."""

    sdm_weight: float = 0.1
    """Weight of the distance regression in the supervised loss [M]; [P] 1, [D] 0.3: the heavier, the fewer of
    a short round's steps go to the segmentation."""
    beta: float = 0.75
    """Share of the segmentation task in the intra-task consistency, in [0, 1] ([P] Eq. 4, Table 2)."""
    intra_task_weight: float = 0.1
    """Final weight of the intra-task consistency [P]."""
    cross_task_weight: float = 0.1
    """Final weight of the cross-task consistency [P]."""
    entropy_weight: float = 0.0
    """Final weight of the student's own entropy over ln C; 0.1 in entropy minimization as SSL4MIS has it; 0
    in UG-MCL [P]."""
    mix_weight: float = 1.0
    """Final weight, in the supervised loss of copy-pasted patches, of a voxel that the teacher is certain of;
    a labeled voxel weighs 1; >= 0; only with `TrainConfig.copy_paste` on [M]; not in [P]."""
    supervised_fraction: float = 0.4
    """Share of the steps, in [0, 1), that see labels only, before the pool takes part: a teacher that has not
    learned its labels yet teaches its errors, and these steps cost less [M]; [P] 0. With `skip_below` and
    `rampup_fraction` as they are the pool comes in after 49 %."""
    rampup_fraction: float = 0.6
    """All these weights follow a squared Gaussian ramp-up over this fraction of the steps after those, in
    (0, 1] [M]; [P] the whole run."""
    threshold_start: float = 0.75
    """Uncertainty below which a voxel may teach at the start, in units of its maximum ln C; ramps to 1 [P
    Fig. 3]."""
    uncertainty_weighting: str = "soft"
    """"soft": every voxel weighs (1 - uncertainty) [M]; "mask": voxels under the threshold teach [P]; "none":
    all voxels teach alike, and the target is one pass of the teacher without dropout (mean teacher)."""
    cross_task_guidance: str = "published"
    """"published": the cross-task term counts all voxels ([P] Eq. 6); "mask": the uncertainty weights it too.
    """
    sdm_convention: str = "between_voxels"
    """"between_voxels": zero lies between inner and outer voxels, one scale for both sides, truncated;
    "published" [D]: zero on the inner boundary voxels, each side scaled by its own maximum, per crop."""
    sdm_truncation: float = 8.0
    """Distance in working voxels at which the truncated map saturates at 1; > 0. Unused when published."""
    dice: str = "per_sample"
    """"per_sample": Dice of each sample and class, averaged; "published" [C]: one Dice a class over the whole
    batch, with squared denominators and a smoothing of 1e-5."""
    sharpness: float = 24.0
    """k of the inverse transform sigmoid(-k sdm) ([P] Eq. 5). 24 / truncation 8 gives a transition of about
    one voxel; 1500 in [C] and [D], where the gradient to the distance head vanishes almost everywhere."""

    def __post_init__(self) -> None:
        require(0 <= self.beta <= 1, f"beta is {self.beta}; it must lie in [0, 1].")
        weights = ("sdm_weight", "intra_task_weight", "cross_task_weight", "entropy_weight", "mix_weight")
        for name in weights:
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must not be negative.")
        require(
            0 <= self.supervised_fraction < 1,
            f"supervised_fraction is {self.supervised_fraction}; need [0, 1).",
        )
        require(0 < self.rampup_fraction <= 1, f"rampup_fraction is {self.rampup_fraction}; need (0, 1].")
        require(0 <= self.threshold_start <= 1, f"threshold_start is {self.threshold_start}; need [0, 1].")
        require(
            self.sdm_truncation > 0 and self.sharpness > 0, "sdm_truncation and sharpness must be above 0."
        )
        choice("uncertainty_weighting", self.uncertainty_weighting, ("mask", "soft", "none"))
        choice("cross_task_guidance", self.cross_task_guidance, ("published", "mask"))
        choice("sdm_convention", self.sdm_convention, ("between_voxels", "published"))
        choice("dice", self.dice, ("per_sample", "published"))

    def pool_ramp(self, step: int, steps: int) -> float:
        """What the unlabeled pool weighs at a step of a run, in [0, 1] (`schedules.pool_rampup`)."""
        return pool_rampup(step, steps, self.supervised_fraction, self.rampup_fraction)


@dataclass(frozen=True)
class TrainConfig:
    """One round of training."""

    method: str = "ug_mcl"
    """"ug_mcl": every term of `LossConfig` with a weight above 0 takes part, which also makes the other
    methods (see `methods`); "supervised": labeled only, segmentation head only."""
    steps: int = 400
    """Optimizer steps of a round, >= 1; [P] 6000."""
    budget_s: float = 0.0
    """Training seconds that a round is planned for; 0 for none. The steps are cut to what a step, measured as
    the round begins, allows."""
    cpu_budget_s: float = 0.0
    """The same in CPU seconds of the process (all threads); 0 for none. Used by comparisons at equal budget.
    """
    min_steps: int = 40
    """The budget never cuts the steps below this."""
    labeled_batch: int = 2
    """Labeled patches a step [P]."""
    unlabeled_batch: int = 1
    """Unlabeled patches a step [M]: each is mixed with a labeled one both ways; [P] 2."""
    optimizer: str = "adamw"
    """"adamw" with a one-cycle rate [M], or "sgd": momentum 0.9, rate x 0.1 after 5/12 and 10/12 of the steps
    [P]."""
    learning_rate: float = 4e-3
    """Peak rate; [P] 0.01 with sgd."""
    weight_decay: float = 1e-4
    """[P]."""
    gradient_clip: float = 12.0
    """Largest norm of a step's gradient; guards the first steps of a warm start [M]; 0 clips nothing [P]."""
    warm_start_rate: float = 0.5
    """Factor on the peak rate when a round starts from the published model, in (0, 1] [M]."""
    ema_decay: float = 0.99
    """Teacher = decay x teacher + (1 - decay) x student, decay at most 1 - 1/(step + 1) [C]; in [0, 1)."""
    ema_share: float = 0.05
    """The teacher remembers at most this share of a run's steps, in (0, 1]: decay at most 1 - 1/(share x
    steps). Short rounds would otherwise publish an average that still holds their first steps [M]; 1 [P]."""
    teacher_buffers: str = "ema"
    """"ema": normalization buffers are averaged like weights and the teacher normalizes with them;
    "published": the teacher keeps its own buffers, fed by its noisy training-mode passes [C]."""
    mc_samples: int = 2
    """Dropout passes T of the teacher a step; 2 teach as well as 4 and cost less [M]; [P] 8."""
    mc_dropout: float = 0.5
    """Probability of dropping a channel in the teacher's passes, in (0, 1], but never more than the network's
    [P]."""
    mirror_teacher: str = "off"
    """"on": the teacher makes half of its passes on a patch's mirror image, left to right; "off" [P]."""
    mc_stream: str = "unlabeled"
    """Which patches the consistency terms see: "unlabeled", or "all" as in [P] and [C]."""
    skip_below: float = 0.006
    """Teacher passes are skipped while the consistency weight, as a fraction of its final value times 0.1, is
    below this; 0 never skips. At 0.006 of the paper's 0.1 that is the first quarter of the ramp-up."""
    perturbation: str = "strong"
    """"strong": the student sees stronger intensity changes than the teacher [M]; "noise": teacher and each
    of its passes see clamped Gaussian noise [C] (0.1, clamped at 0.2); "none" [P]."""
    copy_paste: str = "on"
    """"on": labeled and unlabeled patches also exchange boxes, the teacher's certain voxels standing in for
    labels [M]; "off" as in [P]."""
    augmentation: str = "full"
    """"full": flips, small rotations and zooms, intensity; "flips": independent flips and quarter turns with
    all eight symmetries; "published" [C]: a quarter turn and always one flip, so the original view never
    occurs."""
    flip_axes: tuple[int, ...] = (0,)
    """Working axes that "full" may mirror: 0 left-right, 1 back-front, 2 down-up."""
    crop_offset: str = "inclusive"
    """"inclusive", or "published" [C]: the last crop position is never drawn."""
    foreground_crops: float = 0.5
    """Chance that a labeled patch is centered on a foreground voxel, in [0, 1]; 0 as published."""
    pool_mib: int = 512
    """Memory for preprocessed volumes in MiB; larger pools rotate through it, >= 16."""
    save_every_s: float = 30.0
    """Seconds between resumable training states."""
    data_device: str = "auto"
    """Where prepared scans live, patches are cut and noise is drawn: "training", the device of the network;
    "cpu"; "auto": "training" on CUDA. All the same on a CPU."""
    compile: str = "off"
    """"on": student and teacher go through `torch.compile` on CUDA, and run as they are where that fails."""

    def __post_init__(self) -> None:
        choice("method", self.method, ("ug_mcl", "supervised"))
        choice("optimizer", self.optimizer, ("adamw", "sgd"))
        choice("teacher_buffers", self.teacher_buffers, ("ema", "published"))
        choice("mc_stream", self.mc_stream, ("unlabeled", "all"))
        choice("perturbation", self.perturbation, ("strong", "noise", "none"))
        choice("copy_paste", self.copy_paste, ("off", "on"))
        choice("augmentation", self.augmentation, ("full", "flips", "published", "none"))
        choice("crop_offset", self.crop_offset, ("inclusive", "published"))
        choice("data_device", self.data_device, ("auto", "training", "cpu"))
        choice("compile", self.compile, ("off", "on"))
        choice("mirror_teacher", self.mirror_teacher, ("off", "on"))
        require(0 < self.mc_dropout <= 1, f"mc_dropout is {self.mc_dropout}; it must lie in (0, 1].")
        for name in ("steps", "min_steps", "labeled_batch", "unlabeled_batch", "mc_samples"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}; it must lie in [0, 1).")
        require(0 < self.ema_share <= 1, f"ema_share is {self.ema_share}; it must lie in (0, 1].")
        require(0 <= self.foreground_crops <= 1, f"foreground_crops is {self.foreground_crops}; need [0, 1].")
        require(self.gradient_clip >= 0, f"gradient_clip is {self.gradient_clip}; it must not be negative.")
        require(self.pool_mib >= 16, f"pool_mib is {self.pool_mib}; it must be at least 16.")
        require(set(self.flip_axes) <= {0, 1, 2}, f"flip_axes is {self.flip_axes}; allowed: 0, 1, 2.")


@dataclass(frozen=True)
class InferConfig:
    """Sliding-window inference."""

    mc_samples: int = 8
    """Dropout passes T behind the uncertainty [P]; 1 to 64."""
    mc_dropout: float = 0.2
    """Probability of dropping a channel in these passes, in (0, 1], but never more than in training. With the
    0.5 of training [P] the passes rank voxels' errors worse, for some networks much worse [M]."""
    mirror: str = "trained"
    """"trained": windows are also seen mirrored left to right, where training mirrored them, and half of the
    passes are made there [M]; "off": as they are [P]."""
    overlap: float = 0.5
    """Overlap of neighboring windows, in [0, 0.9]."""
    window_batch: int = 4
    """Windows in one forward pass; halved on out-of-memory."""
    measure: str = "predictive_entropy"
    """Uncertainty measure, in [0, 1]: "predictive_entropy" is the entropy of the mean of the passes over ln
    C."""

    def __post_init__(self) -> None:
        require(1 <= self.mc_samples <= 64, f"mc_samples is {self.mc_samples}; allowed: 1 to 64.")
        require(0 < self.mc_dropout <= 1, f"mc_dropout is {self.mc_dropout}; it must lie in (0, 1].")
        choice("mirror", self.mirror, ("trained", "off"))
        require(0 <= self.overlap <= 0.9, f"overlap is {self.overlap}; allowed: 0 to 0.9.")
        require(self.window_batch >= 1, f"window_batch is {self.window_batch}; it must be at least 1.")
        choice("measure", self.measure, ("predictive_entropy", "mutual_information", "head_disagreement"))


LATER_VALUES: dict[str, dict[str, Any]] = {
    "loss": {"dice": "per_sample", "supervised_fraction": 0.0},
    "train": {
        "gradient_clip": 12.0,
        "data_device": "auto",
        "compile": "off",
        "mc_dropout": 0.5,
        "mirror_teacher": "off",
    },
}
"""Values that came after the first runs were kept, as those runs had them: they identify a run only where it
differs, so that its results outlive them."""


@dataclass(frozen=True)
class Config:
    """Everything a checkpoint needs to rebuild its network and its preprocessing."""

    labels: tuple[str, ...] = ("foreground",)
    """Names of the foreground classes; class i + 1 is `labels[i]`."""
    preset: str = "default"
    """The preset these values started from."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    infer: InferConfig = field(default_factory=InferConfig)

    def __post_init__(self) -> None:
        require(len(self.labels) >= 1, "labels is empty; name at least one foreground class.")
        require(len(set(self.labels)) == len(self.labels), f"labels {self.labels} repeat a name.")
        require(
            self.network.classes == len(self.labels),
            f"network.classes is {self.network.classes} but {len(self.labels)} labels are named.",
        )
        stride = self.network.stride
        require(
            all(edge % stride == 0 for edge in self.preprocess.patch),
            f"patch {self.preprocess.patch} must be a multiple of {stride} along every axis.",
        )

    @property
    def has_teacher(self) -> bool:
        """Whether a term needs the teacher; without one, the student is the model."""
        pulled = self.loss.intra_task_weight > 0 or self.train.copy_paste == "on"
        return self.train.method != "supervised" and pulled

    @property
    def uses_unlabeled(self) -> bool:
        """Whether a term looks at patches without labels."""
        alone = self.loss.cross_task_weight > 0 or self.loss.entropy_weight > 0
        return self.train.method != "supervised" and (self.has_teacher or alone)

    def asks_pool(self, ramp: float) -> bool:
        """Whether a step with this `LossConfig.pool_ramp` looks at patches without labels."""
        return self.uses_unlabeled and ramp > 0 and 0.1 * ramp >= self.train.skip_below

    @property
    def learns_distances(self) -> bool:
        """Whether a term trains the distance head."""
        loss = self.loss
        consistent = loss.cross_task_weight > 0 or (loss.intra_task_weight > 0 and loss.beta < 1)
        return self.train.method != "supervised" and (loss.sdm_weight > 0 or consistent)

    @property
    def mirrors(self) -> bool:
        """Whether inference sees windows mirrored left to right, too: only what training has shown."""
        train = self.train
        shown = train.augmentation in ("flips", "published") or (
            train.augmentation == "full" and 0 in train.flip_axes
        )
        return self.infer.mirror == "trained" and shown

    @property
    def mc_dropout(self) -> float:
        """Probability of dropping a channel in the passes behind the uncertainty, in [0, 1)."""
        return min(self.infer.mc_dropout, self.network.dropout)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as stored in a checkpoint and shown in `/models`."""
        return plain(dataclasses.asdict(self))  # type: ignore[no-any-return]

    def identity(self) -> dict[str, Any]:
        """What makes training with this configuration another run: `to_dict` without unused `LATER_VALUES`.

        How scans are segmented afterwards is left out: it changes no network.
        """
        values = self.to_dict()
        del values["infer"]
        if teacher_memory(self.train.steps, self.train.ema_share) >= self.train.ema_decay:
            del values["train"]["ema_share"]  # has no effect, as in runs from before it came
        for section, later in LATER_VALUES.items():
            kept = values[section].items()
            values[section] = {name: value for name, value in kept if (name, value) not in later.items()}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`; raises ValueError naming an unknown or unacceptable value.

        One that was kept before a value came has its default; the paper's preset stays the paper's.
        """
        if values.get("preset") == "paper-la" and isinstance(values.get("loss"), dict):
            values = {**values, "loss": {"supervised_fraction": 0.0, **values["loss"]}}
        return built(cls, values, "config")


def replace(config: Config, **sections: dict[str, Any]) -> Config:
    """A copy with some values changed: `replace(config, train={"steps": 100})`."""
    changed: dict[str, Any] = {
        name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()
    }
    return dataclasses.replace(config, **changed)
