"""Backbones by name: networks that turn an image into a class token and a grid of features.

small               own CNN of four levels, for any number of channels; the default
efficientnet_lite0  with the ImageNet weights of a pip package, where it is installed
HUB_NAMES           networks of the package `transformers`, with random weights or those of a folder

A backbone takes images of any size, in the unit range. It repeats their border up to a multiple
that the network needs, and normalizes them as the network's weights expect, so that a caller and an
exported file need to know neither.
"""

from typing import Any

from classifier.backbone import RANDOM, Backbone
from classifier.hub_backbones import make_hub_backbone
from classifier.lite0_backbone import Lite0Backbone
from classifier.small_cnn import SmallBackbone
from common.errors import UserError

SMALL, LITE0 = "small", "efficientnet_lite0"
HUB_NAMES = (
    *(f"dinov3_{size}" for size in ("vits16", "vits16plus", "vitb16", "vitl16")),
    *(f"dinov3_convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"dinov2_{size}{more}" for size in ("vits14", "vitb14", "vitl14") for more in ("", "_reg")),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *("resnet18", "resnet34", "resnet50"),
)
BACKBONES = (SMALL, LITE0, *HUB_NAMES)


def make_backbone(
    name: str,
    channels: int,
    pretrained: str | None = None,
    config: dict[str, Any] | None = None,
) -> Backbone:
    """The backbone `name` of BACKBONES for images of so many channels.

    `pretrained` names its first weights: RANDOM, a folder with config.json and safetensors, or
    hub:NAME to download; None means those that the backbone has by default. `config` replaces
    settings of a network of `transformers`.

    Raises `UserError` for an unknown name, a package that is missing, and a folder without the
    weights of this network.
    """
    if name == SMALL:
        _require_no_weights(name, pretrained)
        return SmallBackbone(channels)
    if name == LITE0:
        if pretrained is not None:
            _require_no_weights(name, pretrained)
        return Lite0Backbone(channels, is_pretrained=pretrained is None)
    require_known(name)
    return make_hub_backbone(name, channels, pretrained, config)


def require_known(name: str) -> None:
    """Raise `UserError` for a name that is none of BACKBONES."""
    if name not in BACKBONES:
        raise UserError(f"--backbone: found {name}, expected one of {', '.join(BACKBONES)}")


def _require_no_weights(name: str, pretrained: str | None) -> None:
    if pretrained not in (None, RANDOM):
        raise UserError(
            f"--pretrained: found {pretrained} for the backbone {name}, "
            "expected none: a folder of weights is for networks of transformers"
        )
