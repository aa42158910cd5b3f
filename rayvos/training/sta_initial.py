"""The weights that STA begins with: drawn as the authors do, the backbone's loaded or measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayvos.errors import WeightsError
from rayvos.models.sta import STA
from rayvos.models.weights import read_checkpoint

__all__ = ["ENCODERS", "initialise", "load_backbone", "measure_norms"]

ENCODERS = ("label_encoder", "bbox_encoder", "segm_encoder")


def initialise(network: STA) -> None:
    """Draw weights as the authors do: filters, encoders and (if it is not loaded) the backbone."""
    for part in (network.feature_extractor, network.target_model, *(getattr(network, name) for name in ENCODERS)):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    for name in ENCODERS:  # all weights of codes are 1 at the start
        head = getattr(network, name).samp_w_pred
        nn.init.zeros_(head.weight)
        nn.init.ones_(head.bias)


def load_backbone(network: STA, path: str) -> None:
    """Load the image features.

    Raises:
        WeightsError: tensors are missing or of another shape.
    """
    state, own = read_checkpoint(path), network.feature_extractor.state_dict()
    state = {name.removeprefix("feature_extractor."): value for name, value in state.items()}
    missing = sorted(
        name
        for name, value in own.items()
        if not name.endswith("num_batches_tracked") and (name not in state or state[name].shape != value.shape)
    )
    if missing:
        raise WeightsError(
            f"weights {path}: expected the tensors of the backbone, {len(missing)} are missing or of another shape "
            f"({', '.join(missing[:3])}, …); give Mask R-CNN's ResNet-50 body with Caffe's strides"
        )
    network.feature_extractor.load_state_dict({name: state.get(name, value) for name, value in own.items()})


def measure_norms(network: STA, images_BCHW: Tensor) -> None:
    """Set the statistics of the backbone's batch norms to those of some images: they stay like that."""
    norms = [module for module in network.feature_extractor.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over batches
        norm.train()
    with torch.no_grad():
        network.feature_extractor(images_BCHW)
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()
