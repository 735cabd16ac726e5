"""inference: a segmentation and its uncertainty for a whole scan, on the scan's own grid.

Each window runs the encoder once. The deterministic decoder pass gives the segmentation, T dropout passes of
the decoder on the same features give the uncertainty: 1 encoder and 1 + T decoder passes instead of 1 + T of
each. Where training mirrored scans, the mirror image of each window is seen, too: 2 encoder and 2 + T decoder
passes, whose mean is more often right and finds more of its errors (docs/results.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor

from .bottleneck import FeaturePool
from .checkpoint import Checkpoint
from .config import Config
from .devices import generator_on, wait_for
from .distance import sdm_to_probability
from .network import DualTaskVNet
from .precision import Precision, choose_precision
from .preprocessing import preprocess_image, restore
from .uncertainty import UncertaintySummary, normalized_entropy, stochastic_passes, summarize
from .volume import Volume

logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """Result for one scan, on its file's grid.

    Attributes:
        labels: Class values `(X, Y, Z)` uint8.
        uncertainty: `(X, Y, Z)` float32 in [0, 1], or `None` if not asked for.
        foreground: Mean probability of any foreground class, `(X, Y, Z)` float32 in [0, 1], or `None`.
        summary: Score and least sure slices, or `None`.
        latencies: Seconds of `preprocess`, `inference`, `postprocess` and `total`.
        maps: The map of every measure the predictor was made for, `uncertainty` first, by name.
        probs: Class probabilities of the pass without dropout, `(C, X, Y, Z)` float32; `labels` are the
            likeliest of them.
        features: What the network sees in the scan, `(filters[-1],)` float32, or `None` if not asked for; see
            `bottleneck.FeaturePool`.
    """

    labels: NDArray[np.uint8]
    uncertainty: NDArray[np.float32] | None
    foreground: NDArray[np.float32] | None
    summary: UncertaintySummary | None
    latencies: dict[str, float]
    maps: dict[str, NDArray[np.float32]]
    probs: NDArray[np.float32]
    features: NDArray[np.float32] | None = None


def window_channels(
    network: DualTaskVNet,
    image: Tensor,
    config: Config,
    samples: int,
    generator: torch.Generator | None,
    measures: Sequence[str] = (),
    pool: FeaturePool | None = None,
) -> Tensor:
    """What the network says of windows as they are, stacked as channels.

    Args:
        network: In evaluation mode.
        image: Windows `(B, 1, h, w, d)`.
        config: Of the network.
        samples: T >= 0; 0 leaves the Monte Carlo channels out.
        generator: Source of the dropout masks.
        measures: Uncertainty measures; the configured one if empty.
        pool: Takes in the bottleneck of the windows, where it is wanted.

    Returns:
        `(B, K, h, w, d)` float32 in [0, 1]: C deterministic class probabilities and, with T > 0, C mean Monte
        Carlo probabilities; then what the measures need, in this order: the passes' mean entropy for mutual
        information, the two heads' disagreement for head disagreement; nothing for predictive entropy.
    """
    features, measures = network.encode(image), measures or (config.infer.measure,)
    heads = "head_disagreement" in measures and samples > 0
    output = network.decode(features) if heads else None
    logits = network.segment(features) if output is None else output.logits
    probs = logits.float().softmax(dim=1)
    if pool is not None:
        pool.add(features.bottleneck, 1.0 - probs[:, :1])
    if samples == 0:
        return probs
    passes = stochastic_passes(
        network, features, samples, generator,
        distances=False, entropies="mutual_information" in measures, rate=config.mc_dropout,
    )  # fmt: skip
    channels = [probs, passes.probs]
    if passes.expected_entropy is not None:
        channels.append(passes.expected_entropy)
    if output is not None:
        difference = (probs[:, 1:] - sdm_to_probability(output.sdm.float(), config.loss.sharpness)).abs()
        channels.append(difference.amax(dim=1, keepdim=True))
    return torch.cat(channels, dim=1)


def two_sided_channels(
    network: DualTaskVNet,
    image: Tensor,
    config: Config,
    samples: int,
    generator: torch.Generator | None,
    measures: Sequence[str] = (),
    pool: FeaturePool | None = None,
) -> Tensor:
    """`window_channels` of windows and of their mirror images, averaged; each side has half of the T passes.

    When `Config.mirrors` is false, windows are seen as they are.

    Source: test-time augmentation together with dropout, Wang et al. 2019.
    """
    if not config.mirrors:
        return window_channels(network, image, config, samples, generator, measures, pool)
    left = samples // 2
    seen = window_channels(network, image, config, samples - left, generator, measures, pool)
    flipped = image.flip(2)
    mirrored = window_channels(network, flipped, config, left, generator, measures, pool).flip(2)
    classes = config.network.classes + 1
    # Probabilities without dropout count alike, what the passes give counts by their number.
    plain = torch.lerp(seen[:, :classes], mirrored[:, :classes], 0.5)
    drawn = seen[:, classes:]
    if left > 0:
        drawn = torch.lerp(drawn, mirrored[:, classes:], left / samples)
    return torch.cat([plain, drawn], dim=1)


class Predictor:
    """A checkpoint ready to segment scans. Safe to call from several threads; calls take turns.

    On a GPU windows are cut, blended and brought back to the scan's grid there. Out of memory halves the
    window batch, then blends on the CPU, and at last moves all of the work to the CPU for good.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: Precision | None = None,
        measures: Sequence[str] = (),
    ) -> None:
        """Load the network; `measures` are those of `InferConfig.measure`, the configured one if empty."""
        self.config = checkpoint.config
        self.measures = tuple(measures) or (self.config.infer.measure,)
        self.precision = (precision or choose_precision(self.config, device)).for_inference()
        self._network = self.precision.place(checkpoint.build())
        self._window_batch = self.config.infer.window_batch
        self._blend_device = self.precision.device
        self._lock = threading.Lock()

    def predict(
        self,
        volume: Volume,
        *,
        uncertainty: bool = True,
        mc_samples: int | None = None,
        seed: int = 0,
        features: bool = False,
    ) -> Prediction:
        """Segment one scan.

        Args:
            volume: The scan on its file's grid.
            uncertainty: Whether to run the Monte Carlo passes.
            mc_samples: T, 1 to 64; the config's when `None`.
            seed: Of the dropout masks; the same seed gives the same map on the same device.
            features: Whether to pool the bottleneck into one vector.

        Raises:
            ValueError: If `mc_samples` is out of range.
        """
        samples = self.config.infer.mc_samples if mc_samples is None else mc_samples
        if not 1 <= samples <= 64:
            raise ValueError(f"mc_samples is {samples}; allowed: 1 to 64.")
        start = time.perf_counter()
        image, grid = preprocess_image(volume, self.config.preprocess)
        prepared = time.perf_counter()
        pool = FeaturePool() if features else None
        with self._lock:
            blended = self._blend(image, samples if uncertainty else 0, seed, pool)
            wait_for(blended.device)
        inferred = time.perf_counter()
        try:
            prediction = self._finish(restore(blended, grid), samples if uncertainty else 0)
        except torch.OutOfMemoryError:
            prediction = self._finish(restore(blended.cpu(), grid), samples if uncertainty else 0)
        done = time.perf_counter()
        latencies = {
            "preprocess": prepared - start,
            "inference": inferred - prepared,
            "postprocess": done - inferred,
            "total": done - start,
        }
        return prediction._replace(
            latencies={name: round(value, 4) for name, value in latencies.items()},
            features=None if pool is None else pool.vector(),
        )

    def _finish(self, restored: Tensor, samples: int) -> Prediction:
        classes = self.config.network.classes + 1
        labels = restored[:classes].argmax(dim=0).to(torch.uint8).cpu().numpy()
        probs = restored[:classes].cpu().numpy()
        if samples == 0:
            return Prediction(labels, None, None, None, {}, {}, probs)
        mean = restored[classes : 2 * classes].clamp(0.0, 1.0)
        mean = mean / mean.sum(dim=0, keepdim=True).clamp_min(1e-6)
        maps = self._maps(mean, restored[2 * classes :])
        uncertainty = maps[self.measures[0]]
        foreground = (1.0 - mean[0]).cpu().numpy().astype(np.float32)
        plain = (1.0 - restored[0].clamp(0.0, 1.0)).cpu().numpy().astype(np.float32)
        summary = summarize(uncertainty, foreground, labels > 0, plain, self.measures[0], samples)
        return Prediction(labels, uncertainty, foreground, summary, {}, maps, probs)

    def _maps(self, mean_probs: Tensor, extra: Tensor) -> dict[str, NDArray[np.float32]]:
        """The measures' maps `(X, Y, Z)` in [0, 1] from the blended Monte Carlo channels."""
        entropy = normalized_entropy(mean_probs[None])[0, 0]
        maps: dict[str, NDArray[np.float32]] = {}
        for measure in self.measures:
            values = entropy
            if measure == "mutual_information":
                values = (entropy - extra[0]).clamp(0.0, 1.0)
            elif measure == "head_disagreement":
                values = extra[-1].clamp(0.0, 1.0)
            maps[measure] = values.cpu().numpy().astype(np.float32)
        return maps

    def _blend(self, image: Tensor, samples: int, seed: int, pool: FeaturePool | None = None) -> Tensor:
        """Blended windows, `(K, H, W, D)` float32 where they were blended; asks for less when memory ends."""
        while True:
            try:
                return self._slide(image, samples, seed, pool)
            except torch.OutOfMemoryError:
                if self.precision.device == "cpu":
                    raise
                torch.cuda.empty_cache()
                if self._window_batch > 1:
                    self._window_batch //= 2
                    logger.warning("Out of GPU memory; trying windows in batches of %d.", self._window_batch)
                    continue
                if self._blend_device != "cpu":
                    self._blend_device = "cpu"
                    logger.warning("Out of GPU memory with one window; windows are put together on the CPU.")
                    continue
                logger.warning("Out of GPU memory with one window; this model continues on the CPU.")
                self.precision = choose_precision(self.config, "cpu").for_inference()
                self._network = self.precision.place(self._network)

    @torch.inference_mode()  # not around `_blend`: the probe it may need on the CPU takes gradients
    def _slide(self, image: Tensor, samples: int, seed: int, pool: FeaturePool | None = None) -> Tensor:
        generator = generator_on(self.precision.device, seed)
        if pool is not None:
            pool.clear()  # of windows that ran before memory ended

        def predictor(windows: Tensor) -> Tensor:
            with self.precision.autocast():
                arranged = self.precision.arrange(windows)
                return two_sided_channels(
                    self._network, arranged, self.config, samples, generator, self.measures, pool
                )

        patch = self.config.preprocess.patch
        padding = float(image.min()) if self.config.preprocess.padding == "minimum" else 0.0
        blended = sliding_window_inference(
            image[None].to(self._blend_device),
            patch,
            self._window_batch,
            predictor,
            overlap=self.config.infer.overlap,
            mode="gaussian",
            cval=padding,
            sw_device=self.precision.device,
            device=self._blend_device,
        )
        assert isinstance(blended, Tensor)
        return blended[0].float()
