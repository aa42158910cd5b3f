import subprocess
import sys

import pytest
import torch
from torch import nn

from rayvos.errors import UsageError, WeightsError
from rayvos.models.backbones import BACKBONES, build_backbone, load_backbone_weights
from rayvos.models.box2seg import Box2Seg, Box2SegModel, DeepLabV3Plus, build_box2seg, normalise_crops
from rayvos.models.layers import fold_batch_norms
from rayvos.models.registry import build_model

SMALL_SIZES = {name: 64 if name == "convnext_tiny" else 65 for name in sorted(BACKBONES)}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def random_crops(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    crops = torch.randint(0, 256, (2, size, size, 4), generator=generator, dtype=torch.uint8)
    crops[..., 3] = 0
    crops[0, 10:40, 5:50, 3] = 1
    crops[1, :, 20:21, 3] = 1
    return crops


@pytest.mark.parametrize(("name", "size"), SMALL_SIZES.items())
def test_a_fresh_network_equals_its_rgb_network_for_any_box(name, size):
    guided = Box2Seg(Box2SegModel(backbone=name, size=size)).eval()
    rgb = DeepLabV3Plus(build_backbone(name), align_corners=guided.align_corners).eval()
    first = next(key for key, tensor in guided.state_dict().items() if tensor.ndim == 4)
    rgb.load_state_dict({**guided.state_dict(), first: guided.state_dict()[first][:, :3]})
    inputs = normalise_crops(random_crops(size))

    with torch.inference_mode():
        difference = (guided(inputs) - rgb(inputs[:, :3])).abs().max()

    assert guided.state_dict()[first].shape[1] == 4
    assert guided.state_dict()[first][:, 3].abs().max() == 0
    assert difference <= 1e-5  # the sums of the first convolution may run in another order


@pytest.mark.parametrize(("name", "size"), SMALL_SIZES.items())
def test_maps_lie_at_strides_4_and_16(name, size):
    backbone = build_backbone(name).eval()

    with torch.inference_mode():
        low, high = backbone(torch.zeros(1, 3, size, size))

    aligned = size % 16
    assert tuple(low.shape) == (1, backbone.low_channels, 16 + aligned, 16 + aligned)
    assert tuple(high.shape) == (1, backbone.high_channels, 4 + aligned, 4 + aligned)


@pytest.mark.parametrize(("name", "size"), [("tiny", 385), ("tiny", 384), ("mobilenet_v3_large", 385)])
def test_logits_have_the_size_of_the_input(name, size):
    network = build_model("box2seg", {"backbone": name, "size": size}).eval()

    with torch.inference_mode():
        logits = network(normalise_crops(random_crops(size)[:1]))

    assert tuple(logits.shape) == (1, 2, size, size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "size"), SMALL_SIZES.items())
def test_folding_batch_norms_changes_logits_by_rounding_only(name, size):
    network = Box2Seg(Box2SegModel(backbone=name, size=size)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    inputs = normalise_crops(random_crops(size))

    with torch.inference_mode():
        before = network(inputs)
        after = fold_batch_norms(network)(inputs)

    assert sum(type(module) is nn.BatchNorm2d for module in network.modules()) == 0
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def test_a_trained_fourth_filter_makes_the_box_matter():
    network = Box2Seg(Box2SegModel(size=65)).eval()
    with torch.no_grad():
        network.backbone.stem[0].weight[:, 3] = 0.1
    crops = random_crops(65)[:1]
    other_box = crops.clone()
    other_box[..., 3] = 1 - other_box[..., 3]

    with torch.inference_mode():
        assert not torch.equal(network(normalise_crops(crops)), network(normalise_crops(other_box)))


def test_rgb_is_normalised_as_imagenet_and_guidance_is_not():
    crop = torch.tensor([[[[0, 128, 255, 1], [255, 0, 0, 0]]]], dtype=torch.uint8)

    inputs = normalise_crops(crop)

    assert tuple(inputs.shape) == (1, 4, 1, 2)
    assert inputs[0, 3].tolist() == [[1.0, 0.0]]
    assert inputs[0, 0, 0, 0].item() == pytest.approx(-0.485 / 0.229, abs=1e-5)
    assert inputs[0, 1, 0, 0].item() == pytest.approx((128 / 255 - 0.456) / 0.224, abs=1e-5)


@pytest.mark.parametrize(("backbone", "size"), [("tiny", 386), ("tiny", 16), ("convnext_tiny", 385)])
def test_a_size_whose_maps_do_not_line_up_is_refused(backbone, size):
    with pytest.raises(UsageError, match=f"found {size}"):
        build_box2seg({"backbone": backbone, "size": size})


def test_an_unknown_backbone_suggests_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        build_box2seg({"backbone": "resnet5"})


def test_a_configuration_from_a_newer_version_is_refused():
    with pytest.raises(WeightsError, match="unknown planes"):
        build_box2seg({"backbone": "tiny", "planes": 7})


def test_all_parameters_learn():
    network = Box2Seg(Box2SegModel(size=65)).train()

    network(normalise_crops(random_crops(65))).square().mean().backward()

    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert idle == []
    assert network.backbone.stem[0].weight.grad[:, 3].abs().max() > 0


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "resnet50", "convnext_tiny", "xception65"])
def test_weights_of_an_image_classifier_load_by_their_own_names(name):
    if name == "xception65":
        timm = pytest.importorskip("timm")
        classifier = timm.create_model(name, pretrained=False)
    else:
        import torchvision

        classifier = getattr(torchvision.models, name)(weights=None)
    classifier.eval()
    network = Box2Seg(Box2SegModel(backbone=name, size=64))

    load_backbone_weights(network.backbone, classifier.state_dict(), where="classifier")

    first = next(tensor for tensor in network.backbone.state_dict().values() if tensor.ndim == 4)
    theirs = next(tensor for tensor in classifier.state_dict().values() if tensor.ndim == 4)
    assert torch.equal(first[:, :3], theirs)
    assert first[:, 3].abs().max() == 0


def test_weights_of_another_classifier_are_refused_and_change_nothing():
    import torchvision

    backbone = build_backbone("resnet50")
    before = backbone.conv1.weight.clone()
    other = torchvision.models.resnet18(weights=None).state_dict()

    with pytest.raises(WeightsError, match=r"weights r18\.pth: \d+ of \d+ tensors of the backbone are missing"):
        load_backbone_weights(backbone, other, where="r18.pth")

    assert torch.equal(backbone.conv1.weight, before)


def test_models_import_without_ray_pycocotools_s3fs_and_torchvision():
    code = (
        "import sys, rayvos.models.box2seg, rayvos.models.registry, rayvos.models.weights\n"
        "print(sorted({'ray', 'pycocotools', 's3fs', 'torchvision', 'timm', 'pyarrow'} & set(sys.modules)))"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
