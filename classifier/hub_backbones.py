"""Backbones of the package `transformers`: vision transformers, ConvNeXt and ResNet.

They are made from configurations, with random weights or those of a local folder. Nothing is
downloaded unless --pretrained hub:NAME asks for it. What a configuration draws at random in a
training is switched off: a resumed run could not draw it again.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classifier.backbone import RANDOM, Backbone, BackboneOutput, spread_first_layer
from common.errors import UserError, one_line, prefix_errors, shown

REQUIREMENTS = "requirements-classifier.txt"
HUB = "hub:"  # before a name of --pretrained that may be downloaded
FLAG = "--pretrained"
# of ImageNet's images in the unit range, by channel, as all of these networks' weights expect
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOURS = 3
CONV_STRIDE = 32  # pixels in a cell of the last stage of ConvNeXt and ResNet
# settings that draw at random while training
NOT_RANDOM = {
    "drop_path_rate": 0.0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "pos_embed_shift": None,
    "pos_embed_jitter": None,
    "pos_embed_rescale": None,
}
# of a configuration, what does not describe the network's layers
NOT_KEPT = frozenset(
    ("architectures", "dtype", "torch_dtype", "transformers_version", "model_type")
)
NOT_KEPT |= {"_name_or_path", "id2label", "label2id", "problem_type", "return_dict", "stage_names"}
NOT_KEPT |= {"chunk_size_feed_forward", "output_hidden_states", "output_attentions"}
NOT_KEPT |= {"is_encoder_decoder", "out_features", "out_indices", "_out_features", "_out_indices"}
VIT, DINOV2, DINOV2_REG = "dinov3_vit", "dinov2", "dinov2_with_registers"
DINOV3_CONVNEXT, CONVNEXT, RESNET = "dinov3_convnext", "convnext", "resnet"
WIDTHS = {  # of ConvNeXt: channels and depths of the four stages
    "tiny": ([96, 192, 384, 768], [3, 3, 9, 3]),
    "small": ([96, 192, 384, 768], [3, 3, 27, 3]),
    "base": ([128, 256, 512, 1024], [3, 3, 27, 3]),
    "large": ([192, 384, 768, 1536], [3, 3, 27, 3]),
}
TRANSFORMERS = {"vits": (384, 6, 12), "vitb": (768, 12, 12), "vitl": (1024, 16, 24)}
RESNETS = {
    "resnet18": ("basic", [64, 128, 256, 512], [2, 2, 2, 2]),
    "resnet34": ("basic", [64, 128, 256, 512], [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [256, 512, 1024, 2048], [3, 4, 6, 3]),
}


def settings_of(name: str) -> tuple[str, dict[str, Any]]:
    """The type of the network `name` in `transformers`, and what its configuration sets."""
    if name in RESNETS:
        kind, widths, depths = RESNETS[name]
        return RESNET, {"layer_type": kind, "hidden_sizes": widths, "depths": depths}
    family, _, size = name.rpartition("convnext_")
    if size in WIDTHS:
        widths, depths = WIDTHS[size]
        return DINOV3_CONVNEXT if family else CONVNEXT, {"hidden_sizes": widths, "depths": depths}
    family, size, *registers = name.split("_")
    width, heads, layers = TRANSFORMERS[size[:4]]
    settings = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }
    if family == "dinov2":
        settings |= {"patch_size": 14, "image_size": 518}
        return DINOV2_REG if registers else DINOV2, settings
    settings |= {"patch_size": 16, "intermediate_size": 4 * width, "num_register_tokens": 4}
    if size.endswith("plus"):
        settings |= {"use_gated_mlp": True, "hidden_act": "silu"}
    return VIT, settings


def make_hub_backbone(
    name: str, channels: int, pretrained: str | None = None, config: dict[str, Any] | None = None
) -> Backbone:
    """The backbone `name` of HUB_NAMES; the parameters are those of `make_backbone`.

    Raises `UserError` without the package, for a folder without weights of this network, and for a
    `config` that does not describe one.
    """
    transformers = _import_transformers(name)
    kind, settings = settings_of(name)
    weights = None
    if pretrained not in (None, RANDOM):
        weights, config = _read_weights(transformers, pretrained, kind)
    make_config = type(transformers.AutoConfig.for_model(kind))
    planes = COLOURS if channels == 1 else channels
    known = make_config().to_dict().keys() - NOT_KEPT
    settings = settings | (config or {}) | NOT_RANDOM | {"num_channels": planes}
    settings = {key: _plain(value) for key, value in settings.items() if key in known}
    try:
        network = transformers.AutoModel.from_config(make_config(**settings))
    except Exception as error:  # transformers raises exceptions of many types
        raise UserError(
            f"--backbone {name}: found settings that make no network ({one_line(error)})"
        ) from None
    if weights:
        _load(network, weights, planes)
    make = VitBackbone if kind in (VIT, DINOV2, DINOV2_REG) else ConvBackbone
    return make(network, kind, channels, settings)


class HubBackbone(Backbone):
    """A network of `transformers` with its normalization. A grey image is repeated."""

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        config: dict[str, Any],
        dim: int,
        stride: int,
        skips: tuple[tuple[int, int], ...] = (),
    ):
        super().__init__(channels, dim, stride, skips)
        self.network, self.config = network, config
        self.planes = network.config.num_channels
        self.register_buffer("mean", _by_channel(MEAN, self.planes), persistent=False)
        self.register_buffer("spread", _by_channel(SPREAD, self.planes), persistent=False)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W), 0-1, to (B, planes, H, W) as the network's weights expect."""
        if self.channels == 1:
            images = images.expand(-1, self.planes, -1, -1)
        return (images - self.mean) / self.spread


class VitBackbone(HubBackbone):
    """A vision transformer: its tokens are the class's, registers, and those of the grid."""

    def __init__(self, network: nn.Module, kind: str, channels: int, config: dict[str, Any]):
        stride = network.config.patch_size
        super().__init__(network, channels, config, network.config.hidden_size, stride)
        self.registers = 0 if kind == DINOV2 else network.config.num_register_tokens
        if kind == VIT:
            network.rope_embeddings = RotaryPositions(network.rope_embeddings.inv_freq, stride)
        if getattr(network.embeddings, "mask_token", None) is not None:
            network.embeddings.mask_token.requires_grad_(False)  # pre-training alone uses it

    def features(self, images: torch.Tensor) -> BackboneOutput:
        height, width = (int(size) // self.stride for size in images.shape[2:])
        tokens = self.network(pixel_values=self.normalize(images)).last_hidden_state
        grid = tokens[:, 1 + self.registers :].transpose(1, 2)
        return BackboneOutput(tokens[:, 0], grid.reshape(-1, self.dim, height, width))


class RotaryPositions(nn.Module):
    """The positions of DINOv3's tokens, as `transformers` computes them, bit by bit.

    Only the last step differs: that of `transformers` becomes an operation `If` in files of an
    opset below 18, which readers refuse.
    """

    def __init__(self, frequencies: torch.Tensor, patch: int):
        super().__init__()
        self.patch = patch
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (h * w, D) of the angles of each token of images (B, C, H, W)."""
        sides = [int(side) // self.patch for side in images.shape[2:]]
        centres = [
            torch.arange(0.5, side, dtype=torch.float32, device=images.device) / side
            for side in sides
        ]
        places = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1)
        places = 2.0 * places - 1.0
        angles = 2 * math.pi * places[:, :, None] * self.frequencies[None, None, :]
        angles = angles.flatten(1, 2)
        angles = torch.cat([angles, angles], dim=1)
        return angles.cos().to(images.dtype), angles.sin().to(images.dtype)


class ConvBackbone(HubBackbone):
    """ConvNeXt or ResNet: the grid is the last stage, 32 pixels a cell; the others are skips.

    ConvNeXt's last normalization is applied to each cell, too, as DINOv3 does.
    """

    def __init__(self, network: nn.Module, kind: str, channels: int, config: dict[str, Any]):
        widths = network.config.hidden_sizes
        strides = [CONV_STRIDE >> level for level in range(len(widths))][::-1]
        super().__init__(
            network, channels, config, widths[-1], CONV_STRIDE, tuple(zip(strides, widths))[:-1]
        )
        self.kind = kind

    def features(self, images: torch.Tensor) -> BackboneOutput:
        planes, network, levels = self.normalize(images), self.network, []
        if self.kind == DINOV3_CONVNEXT:
            stages, norm = network.model.stages, network.layer_norm
        elif self.kind == CONVNEXT:
            planes = network.embeddings(planes)
            stages, norm = network.encoder.stages, network.layernorm
        else:
            planes = network.embedder(planes)
            stages, norm = network.encoder.stages, nn.Identity()
        for stage in stages:
            planes = stage(planes)
            levels.append(planes)
        grid = norm(planes.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return BackboneOutput(norm(planes.mean(dim=(2, 3))), grid, tuple(levels[:-1]))


def _import_transformers(name: str) -> Any:
    try:
        import transformers  # seconds; the other backbones do without
    except ImportError:
        raise UserError(
            f"--backbone {name}: found no package transformers, expected it installed "
            f"(pip install -r {REQUIREMENTS})"
        ) from None
    return transformers


def _read_weights(
    transformers: Any, pretrained: str, kind: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights and the configuration of a folder, or of a name behind HUB.

    Raises `UserError` for another network, and where weights are missing.
    """
    with prefix_errors(FLAG):
        is_hub = pretrained.startswith(HUB)
        place = pretrained.removeprefix(HUB) if is_hub else str(Path(pretrained).absolute())
        if not is_hub and not Path(place, "config.json").is_file():
            raise UserError(
                f"{pretrained}: found no config.json, expected a folder with config.json and "
                f"model.safetensors, or {HUB}NAME to download"
            )
        with prefix_errors(pretrained):
            try:
                config = transformers.AutoConfig.from_pretrained(place, local_files_only=not is_hub)
            except Exception as error:  # transformers raises exceptions of many types
                raise UserError(
                    f"found no usable config.json ({one_line(error)}), expected one of a {kind}"
                ) from None
            if config.model_type != kind:
                raise UserError(
                    f"found a network of type {shown(config.model_type)}, expected {kind}"
                )
            try:
                network, told = transformers.AutoModel.from_pretrained(
                    place, config=config, local_files_only=not is_hub, output_loading_info=True
                )
            except Exception as error:
                raise UserError(
                    f"found weights that do not fit config.json ({one_line(error)})"
                ) from None
            if missing := sorted(told["missing_keys"]):
                raise UserError(
                    f"found no weights of {missing[0]}, expected those of the whole network"
                )
    return network.state_dict(), config.to_dict()


def _load(network: nn.Module, weights: dict[str, torch.Tensor], planes: int) -> None:
    """Load weights, those of the first layer spread over another number of channels."""
    expected = network.state_dict()
    for name, tensor in weights.items():
        if tensor.ndim == 4 and tensor.shape[1:2] != expected[name].shape[1:2]:
            weights[name] = spread_first_layer(tensor, planes)
    network.load_state_dict(weights)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _by_channel(values: tuple[float, ...], planes: int) -> torch.Tensor:
    """Values by colour (1, planes, 1, 1); other channels than three all have their mean."""
    tensor = torch.tensor(values)
    if planes != len(values):
        tensor = tensor.mean().repeat(planes)
    return tensor[None, :, None, None]
