"""Image encoders by name, each giving maps at stride 4 (edges) and stride 16 (meaning).

Names inside a backbone are those of torchvision (`mobilenet_v3_large`, `resnet50`, `convnext_tiny`) or timm
(`xception65`), so ImageNet weights that a user brings load by their own keys. Nothing here downloads weights.
Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.errors import UsageError, WeightsError, choose
from rayvos.models.layers import ConvNormAct, ResidualBlock

__all__ = ["BACKBONES", "Backbone", "build_backbone", "load_backbone_weights", "widen_first_conv"]


class Backbone(nn.Module):
    """An encoder that returns its maps at stride 4 and at stride 16."""

    low_channels: int
    """Channels of the map at stride 4."""
    high_channels: int
    """Channels of the map at stride 16."""
    sizes: str = "16n or 16n + 1"
    """Input sizes whose maps line up, for error messages."""

    def fits(self, size: int) -> bool:
        """Tell whether inputs of `size` pixels give maps that cover the whole input."""
        return size % 16 in {0, 1} and size > 16

    def rename(self, key: str) -> str:
        """Return this network's name for `key` of the library's own checkpoint."""
        return key


class _Tiny(Backbone):
    """Residual stages 24-48-80-128-192 at strides 2, 4, 8, 16, 16; the last one is dilated.

    Chosen for one CPU core: 3.5 M parameters with the head, a fifth of ResNet-50's time on a crop.
    """

    low_channels, high_channels = 48, 192

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 24, 3, stride=2)
        self.stride4 = nn.Sequential(ResidualBlock(24, 48, stride=2), ResidualBlock(48, 48))
        self.stride16 = nn.Sequential(
            ResidualBlock(48, 80, stride=2),
            ResidualBlock(80, 80),
            ResidualBlock(80, 128, stride=2),
            ResidualBlock(128, 128),
            ResidualBlock(128, 192, dilation=2),
            ResidualBlock(192, 192, dilation=2),
            ResidualBlock(192, 192, dilation=2),
        )

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        low = self.stride4(self.stem(images_BCHW))
        return low, self.stride16(low)


class _MobileNetV3(Backbone):
    low_channels, high_channels = 24, 960

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v3_large

        self.features = mobilenet_v3_large(weights=None, dilated=True).features

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        low = self.features[:4](images_BCHW)
        return low, self.features[4:](low)


class _ResNet50(Backbone):
    low_channels, high_channels = 256, 2048

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        # Stride 16: the last stage keeps its resolution and is dilated instead.
        network = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1, network.layer2, network.layer3, network.layer4,
        )  # fmt: skip

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images_BCHW))))
        low = self.layer1(maps)
        return low, self.layer4(self.layer3(self.layer2(low)))


class _ConvNeXtTiny(Backbone):
    low_channels, high_channels = 96, 768
    sizes = "16n"

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import convnext_tiny

        self.features = convnext_tiny(weights=None).features
        # Stride 16: the last downsampling keeps the resolution, its stage is dilated.
        self.features[6][1].stride = (1, 1)
        for block in self.features[7]:
            block.block[0].dilation, block.block[0].padding = (2, 2), (6, 6)

    def fits(self, size: int) -> bool:
        # Its stem cuts the picture into 4x4 tiles, so one pixel more than a multiple would be dropped.
        return size % 16 == 0 and size > 16

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        low = self.features[:2](images_BCHW)
        norm, merge = self.features[6]
        # Its 2x2 convolution takes a pixel away; zeros at the right and bottom bring it back.
        high = F.pad(norm(self.features[2:6](low)), (0, 1, 0, 1))
        return low, self.features[7](merge(high))


class _Xception65(Backbone):
    low_channels, high_channels = 256, 2048

    def __init__(self) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise UsageError("backbone 'xception65': needs the package timm; pip install timm") from error
        self.network = timm.create_model(
            "xception65", pretrained=False, features_only=True, output_stride=16, out_indices=(1, 4)
        )

    def rename(self, key: str) -> str:
        return "network." + re.sub(r"^(stem|blocks)\.(\d+)\.", r"\1_\2.", key)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.network(images_BCHW)
        return low, high


BACKBONES: Mapping[str, Callable[[], Backbone]] = {
    "convnext_tiny": _ConvNeXtTiny,
    "mobilenet_v3_large": _MobileNetV3,
    "resnet50": _ResNet50,
    "tiny": _Tiny,
    "xception65": _Xception65,
}


def build_backbone(name: str) -> Backbone:
    """Return a backbone for RGB input with random weights.

    Raises:
        UsageError: no backbone has this name, or its package is not installed.
    """
    return BACKBONES[choose("backbone", name, BACKBONES)]()


def widen_first_conv(network: nn.Module, extra_channels: int = 1) -> None:
    """Let a network's first convolution read more channels, in place, without changing what it computes.

    The filters of the new channels are zero: until it is trained, the widened network equals the narrow one for
    any content of the new channels. Source: Box2Seg (the fourth, guidance channel of the first convolution).
    """
    module = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    added = module.weight.new_zeros(module.out_channels, extra_channels, *module.kernel_size)
    module.weight = nn.Parameter(torch.cat([module.weight.detach(), added], dim=1))
    module.in_channels += extra_channels


def load_backbone_weights(backbone: Backbone, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy the weights of an image classifier into a backbone; the classifier's own layers are left out.

    Args:
        backbone: for RGB input, or widened by `widen_first_conv`: then the extra filters become zero.
        state: tensors by the names of torchvision or timm.
        where: the file, for error messages.

    Raises:
        WeightsError: tensors are missing or of another shape: the file belongs to another network.
    """
    renamed = {backbone.rename(key): tensor for key, tensor in state.items()}
    wanted = backbone.state_dict()
    missing = [name for name in wanted if name not in renamed and not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"weights {where}: {len(missing)} of {len(wanted)} tensors of the backbone are missing "
            f"({', '.join(missing[:3])}, …); give the ImageNet checkpoint of this very backbone"
        )
    adopted = dict(wanted)
    for name, target in wanted.items():
        tensor = renamed.get(name, target)
        if tensor.ndim == 4 and target.ndim == 4 and tensor.shape[1] == 3 and target.shape[1] > 3:
            padding = tensor.new_zeros(tensor.shape[0], target.shape[1] - 3, *tensor.shape[2:])
            tensor = torch.cat([tensor, padding], dim=1)
        if tensor.shape != target.shape:
            raise WeightsError(
                f"weights {where}: {name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}; "
                "give the ImageNet checkpoint of this very backbone"
            )
        adopted[name] = tensor
    backbone.load_state_dict(adopted)
