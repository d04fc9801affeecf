"""The health of a network in training: whether its output, its layers and its channels still live.

A reconstruction that has collapsed to one grey has a low loss, too, so each epoch is measured.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autoencoder.network import UNet
from training.selection import VALID

VARIANCE, SPREAD, GRADIENT, DEAD = "variance_ratio", "weight_spread", "gradient_norm", "dead_share"
# output variance over that of the target, outside of which the output no longer follows it
VARIANCE_LIMITS = (0.05, 10.0)
LEAST_GRADIENT = 1e-6  # of the largest layer's
MOST_DEAD = 0.5  # share of a level's channels
LEAST_VARIANCE = 1e-8  # of a target that the ratio is taken to


def measure_health(
    network: UNet,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    is_segmented: bool,
) -> dict[str, float]:
    """The health of a network on one batch, by name; it is left in evaluation mode, unchanged.

    `inputs` are (B, C, h, w) and `targets` what `loss` compares the output with. The figures are
    the mean variance of an output over that of its target (of a mask's probabilities over the
    mask's), and for each convolution the standard deviation of its weights and the norm of its
    gradient. Of each level it is the share of channels that are zero in the whole batch.
    """
    network.eval()
    dead, hooks = {}, []
    for name, block in _blocks(network).items():
        hooks.append(block.register_forward_hook(_count_dead(dead, name)))
    try:
        with torch.enable_grad():
            output = network(inputs)
            layers = {
                name: layer.weight
                for name, layer in network.named_modules()
                if isinstance(layer, nn.Conv2d)
            }
            # not `backward`: that would reach the gradients, and the hooks, of a training
            gradients = torch.autograd.grad(loss(output, targets), list(layers.values()))
    finally:
        for hook in hooks:
            hook.remove()
    answer = output.detach().sigmoid() if is_segmented else output.detach()
    wanted = targets.var(dim=(1, 2, 3)).mean().clamp_min(LEAST_VARIANCE)
    figures = {VARIANCE: float(answer.var(dim=(1, 2, 3)).mean() / wanted)}
    for (name, weight), gradient in zip(layers.items(), gradients):
        figures[f"{SPREAD}/{name}"] = float(weight.detach().std(correction=0))
        figures[f"{GRADIENT}/{name}"] = float(gradient.norm())
    return figures | {f"{DEAD}/{name}": share for name, share in dead.items()}


def collapse_warnings(history: list[dict[str, Any]], is_segmented: bool, epochs: int) -> list[str]:
    """What the last epoch of a history says about a collapse that begins in it.

    `epochs` are those of the whole run: a mask begins flat, so it counts as collapsed only where it
    no longer was, or in the second half.
    """
    measured = [entry for entry in history if VALID + VARIANCE in entry]
    if not measured or measured[-1] is not history[-1]:
        return []
    found = _collapses(measured, is_segmented, epochs)
    before = _collapses(measured[:-1], is_segmented, epochs) if measured[1:] else {}
    return [
        f"epoch {history[-1]['epoch']}: {text}" for key, text in found.items() if key not in before
    ]


def _collapses(measured: list[dict[str, Any]], is_segmented: bool, epochs: int) -> dict[str, str]:
    """A line on each kind of collapse of the last of the measured epochs, by kind."""
    entry, found = measured[-1], {}
    ratio = entry[VALID + VARIANCE]
    is_late = not is_segmented or entry["epoch"] > epochs / 2
    was_alive = any(earlier[VALID + VARIANCE] >= VARIANCE_LIMITS[0] for earlier in measured)
    if ratio < VARIANCE_LIMITS[0] and (is_late or was_alive):
        advice = (
            "a larger --defect_contrast or --lr"
            if is_segmented
            else "--loss mse:1 (SSIM pulls towards grey), --skips shallow or a wider --bottleneck"
        )
        found["flat"] = (
            f"the output has collapsed: its variance is {ratio:.3f} of the "
            f"{'mask' if is_segmented else 'picture'}'s; try {advice}"
        )
    if ratio > VARIANCE_LIMITS[1]:
        found["wild"] = (
            f"the output has burst: its variance is {ratio:.1f} times the target's; "
            "try a smaller --lr"
        )
    gradients = _by_layer(entry, GRADIENT)
    least = LEAST_GRADIENT * max(gradients.values(), default=0.0)
    still = [name for name, norm in gradients.items() if norm < least]
    if still:
        found["still"] = (
            f"no gradient reaches {_listed(still)}; try --skips all or a smaller --depth"
        )
    dead = [name for name, share in _by_layer(entry, DEAD).items() if share > MOST_DEAD]
    if dead:
        found["dead"] = (
            f"more than half of the channels of {_listed(dead)} are dead; "
            "try a smaller --lr or fewer --base_channels"
        )
    return found


def _by_layer(entry: dict[str, Any], kind: str) -> dict[str, float]:
    prefix = f"{VALID}{kind}/"
    return {
        name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)
    }


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _blocks(network: UNet) -> dict[str, nn.Module]:
    """The levels of a network by name, whose outputs have passed a ReLU."""
    encoder = {f"encoder.{number}": block for number, block in enumerate(network.encoder)}
    return encoder | {f"decoder.{number}": block for number, block in enumerate(network.decoder)}


def _count_dead(dead: dict[str, float], name: str) -> Callable[..., None]:
    def hook(block: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        dead[name] = float((output.detach().amax(dim=(0, 2, 3)) <= 0).float().mean())

    return hook
