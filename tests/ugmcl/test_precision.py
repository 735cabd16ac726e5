"""The speed probe and what it decides."""

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import tiny_config
from ugmcl.network import DualTaskVNet
from ugmcl.precision import Precision, choose_precision, resolve_device


def test_the_probe_takes_the_faster_format_and_says_what_it_measured() -> None:
    chosen = choose_precision(tiny_config(), "cpu", repeats=1)
    assert chosen.device == "cpu"
    assert set(chosen.measured_ms) == {"fp32", "bf16", "bf16_channels_last"}
    assert all(value > 0 for value in chosen.measured_ms.values())
    fastest = chosen.name + "_channels_last" * chosen.channels_last
    assert chosen.measured_ms[fastest] == min(chosen.measured_ms.values())
    assert Precision(**chosen.to_dict()) == chosen


def test_the_probe_disturbs_no_random_numbers() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (torch.rand(3), np.random.rand(3))
    torch.manual_seed(5)
    np.random.seed(5)
    choose_precision(tiny_config(), "cpu", repeats=1)
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()


@pytest.mark.parametrize("levels", [2, 5, 6])
def test_the_probe_measures_shallow_and_deep_networks(levels: int) -> None:
    stride = 2 ** (levels - 1)
    config = tiny_config(
        network={"filters": (2,) * levels, "convolutions": (1,) * levels},
        preprocess={"patch": (2 * stride if stride > 4 else 16, max(stride, 16), max(stride, 16))},
    )
    assert choose_precision(config, "cpu", repeats=1).measured_ms["fp32"] > 0


def test_inference_keeps_the_number_format_and_arranges_half_formats_channels_last() -> None:
    trained = Precision("bf16", "cpu", False, {"bf16": 3.0})
    assert trained.for_inference() == Precision("bf16", "cpu", True, {"bf16": 3.0})
    assert Precision("fp32", "cpu", False).for_inference() == Precision("fp32", "cpu", False)


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="'tpu' is not available here; choose auto or one of: cpu"):
        resolve_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_a_gpu_this_machine_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="'cuda:0' is not available"):
        choose_precision(tiny_config(), "cuda:0")


def test_half_precision_agrees_with_single_roughly() -> None:
    torch.manual_seed(0)
    network = DualTaskVNet(tiny_config().network).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    single = network(image).logits.softmax(dim=1)
    half = Precision("bf16", "cpu", True)
    with half.autocast():
        probs = half.place(network)(half.arrange(image)).logits.float().softmax(dim=1)
    assert (probs - single).abs().max() < 0.03
