"""The dual-task V-Net: its size, its split at the first dropout, its variants."""

import pytest
import torch

from tests.ugmcl.toy_scans import tiny_config
from ugmcl import preset
from ugmcl.config import NetworkConfig
from ugmcl.network import DualTaskVNet, InstanceNorm


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_the_papers_network_has_the_papers_number_of_parameters() -> None:
    config = preset("paper-la", ["left atrium"], [(200, 150, 88)], [(0.625, 0.625, 0.625)])
    assert config.network.norm == "batch"
    network = DualTaskVNet(config.network)
    assert parameters(network) == 9_448_883
    assert parameters(network.encoder[4]) == 5_310_720
    assert parameters(network.down[0]) == 4_192
    assert parameters(network.up[3]) == 262_528
    assert parameters(network.segmentation_head) == 34
    assert parameters(network.sdm_head) == 17


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_heads_have_the_promised_shapes_and_ranges(classes: int) -> None:
    output = DualTaskVNet(tiny_config(classes).network)(torch.randn(2, 1, 8, 12, 16))
    assert output.logits.shape == (2, classes + 1, 8, 12, 16)
    assert output.sdm.shape == (2, classes, 8, 12, 16)
    assert output.sdm.abs().max() <= 1


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_a_training_pass_is_encoder_then_decoder_under_the_same_masks(norm: str) -> None:
    torch.manual_seed(0)
    network = DualTaskVNet(tiny_config(network={"norm": norm}).network).train()
    image = torch.randn(2, 1, 16, 16, 16)
    whole = network(image, torch.Generator().manual_seed(1))
    features = network.encode(image)
    masks = network.sample_masks(2, features.bottleneck, torch.Generator().manual_seed(1))
    split = network.decode(features, masks)
    assert torch.equal(whole.logits, split.logits)
    assert torch.equal(whole.sdm, split.sdm)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_normalization_is_the_same_function_in_every_layout_with_and_without_gradient(
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    norm = InstanceNorm(4, affine=True)
    torch.nn.init.normal_(norm.weight)
    image = torch.randn(2, 4, 6, 8, 4).contiguous(memory_format=layout).requires_grad_()
    weights = torch.randn(2, 4, 6, 8, 4)
    plain = torch.nn.functional.instance_norm(image, weight=norm.weight, bias=norm.bias, eps=norm.eps)
    expected = torch.autograd.grad((plain * weights).sum(), [image, norm.weight, norm.bias])
    ours = norm(image)
    assert torch.allclose(ours, plain, atol=1e-5)
    for got, wanted in zip(
        torch.autograd.grad((ours * weights).sum(), [image, norm.weight, norm.bias]), expected, strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(norm(image), plain, atol=1e-5)


def test_both_heads_are_their_own_convolutions_of_the_same_features() -> None:
    torch.manual_seed(0)
    network = DualTaskVNet(tiny_config(2).network).eval()
    seen: list[torch.Tensor] = []
    network.decoder[0].register_forward_hook(lambda *given: seen.append(given[2]))
    output = network(torch.randn(1, 1, 16, 16, 16))
    assert torch.allclose(output.logits, network.segmentation_head(seen[0]), atol=1e-6)
    assert torch.allclose(output.sdm, torch.tanh(network.sdm_head(seen[0])), atol=1e-6)


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_a_batch_decoded_sample_by_sample_equals_the_batch_decoded_at_once(norm: str) -> None:
    torch.manual_seed(0)
    network = DualTaskVNet(tiny_config(network={"norm": norm}).network).eval()
    image = torch.randn(3, 1, 16, 16, 16)
    masks = network.sample_masks(3, torch.zeros(1), torch.Generator().manual_seed(1))
    at_once = network.decode(network.encode(image), masks)  # with a gradient, so as one batch
    with torch.no_grad():
        one_by_one = network.decode(network.encode(image), masks)
    assert torch.allclose(at_once.logits, one_by_one.logits, atol=1e-5)
    assert torch.allclose(at_once.sdm, one_by_one.sdm, atol=1e-5)


def test_an_evaluation_pass_draws_nothing() -> None:
    network = DualTaskVNet(tiny_config().network).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(network(image).logits, network.decode(network.encode(image)).logits)
    assert torch.equal(network(image).logits, network(image).logits)


def test_masks_drop_whole_channels_and_keep_the_mean() -> None:
    network = DualTaskVNet(NetworkConfig(filters=(64, 512), convolutions=(1, 1), dropout=0.25))
    masks = network.sample_masks(4, torch.zeros(1), torch.Generator().manual_seed(0))
    assert masks.bottleneck.shape == (4, 512, 1, 1, 1)
    assert masks.head.shape == (4, 64, 1, 1, 1)
    assert masks.bottleneck.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert masks.bottleneck.mean().item() == pytest.approx(1.0, abs=0.05)


def test_without_dropout_the_masks_are_ones() -> None:
    network = DualTaskVNet(tiny_config(network={"dropout": 0.0}).network)
    assert (network.sample_masks(2, torch.zeros(1)).bottleneck == 1).all()


def test_the_published_distance_head_is_the_tanh_of_the_segmentation_logits() -> None:
    network = DualTaskVNet(tiny_config(2, network={"sdm_head": "published"}).network).eval()
    output = network(torch.randn(1, 1, 16, 16, 16))
    assert torch.equal(output.sdm, torch.tanh(output.logits[:, 1:]))


@pytest.mark.parametrize("filters", [(4, 12), (6, 10), (16, 24)])
def test_group_normalization_fits_any_width(filters: tuple[int, ...]) -> None:
    network = DualTaskVNet(tiny_config(network={"norm": "group", "filters": filters}).network)
    assert network(torch.randn(1, 1, 8, 8, 8)).logits.shape == (1, 2, 8, 8, 8)


def test_the_two_heads_do_not_share_weights_unless_published() -> None:
    network = DualTaskVNet(tiny_config().network).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    before = network(image)
    with torch.no_grad():
        network.sdm_head.bias.add_(1.0)
    after = network(image)
    assert torch.equal(before.logits, after.logits)
    assert not torch.equal(before.sdm, after.sdm)
