import math

import pytest
import torch

from loss import FocalLoss
from training.distillation import TEACHER_WEIGHT, TeacherLoss


def by_hand(logits, mask, gamma, alpha=0.75, smoothing=1e-5):
    """The formula pixel by pixel in double precision, without any of the tricks."""
    total, count = 0.0, 0
    for pixel in range(mask.numel()):
        exponentials = [math.exp(logits[0, channel].flatten()[pixel].item()) for channel in (0, 1)]
        probabilities = [value / sum(exponentials) for value in exponentials]
        true = int(mask.flatten()[pixel].item())
        weight = alpha if true == 1 else 1 - alpha
        smooth = -(1 - smoothing) * math.log(probabilities[true]) - smoothing * math.log(
            probabilities[1 - true]
        )
        total += weight * (1 - probabilities[true]) ** gamma * smooth
        count += 1
    return total / count


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.3, 3.0])
def test_against_the_formula(gamma):
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, 2, 4, 5, dtype=torch.float64)
    mask = (torch.rand(1, 1, 4, 5) > 0.6).double()
    assert FocalLoss()(logits, mask, gamma).item() == pytest.approx(
        by_hand(logits, mask, gamma), rel=1e-9
    )


def test_the_loss_stays_on_the_device():
    """Tensors on the meta device have no values: whatever takes them to the CPU fails."""
    loss = FocalLoss()(
        torch.zeros(2, 2, 8, 8, device="meta"), torch.zeros(2, 1, 8, 8, device="meta"), 2.0
    )
    assert loss.device.type == "meta" and loss.shape == ()


def test_alpha_weighs_the_defect_class():
    unsure = torch.zeros(1, 2, 1, 1)
    on_defect = FocalLoss(alpha=0.75)(unsure, torch.ones(1, 1, 1, 1), 2.0)
    on_background = FocalLoss(alpha=0.75)(unsure, torch.zeros(1, 1, 1, 1), 2.0)
    assert (on_defect / on_background).item() == pytest.approx(3.0)


def test_channel_one_is_the_defect():
    sure_of_defect = torch.tensor([-4.0, 4.0]).reshape(1, 2, 1, 1)
    assert FocalLoss()(sure_of_defect, torch.ones(1, 1, 1, 1), 1.0) < 1e-5
    assert FocalLoss()(sure_of_defect, torch.zeros(1, 1, 1, 1), 1.0) > 1


@pytest.mark.parametrize("margin", [0.0, 20.0, 200.0, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_value_and_gradient_are_finite_however_sure_the_network_is(margin, gamma):
    for true in (0.0, 1.0):
        logits = torch.tensor([-margin, margin]).reshape(1, 2, 1, 1).requires_grad_()
        loss = FocalLoss()(logits, torch.full((1, 1, 1, 1), true), gamma)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def logits_of(*probabilities):
    """(1, 2, 1, N) with these probabilities of a defect."""
    defect = torch.tensor(probabilities, dtype=torch.float64).reshape(1, 1, 1, -1)
    # what both have in common does not count
    return torch.cat([torch.log(1 - defect), torch.log(defect)], dim=1) + 5.0


def test_the_teacher_loss_against_its_formula():
    own = (0.9, 0.2, 0.3, 0.6)
    teacher = (0.7, 0.4, 0.1, 0.6)
    mask = (1.0, 1.0, 0.0, 0.0)
    gamma = 1.7
    total = 0
    for p, q, true in zip(own, teacher, mask):
        divergence = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        total += (0.75 * (1 - p) ** gamma if true else 0.25 * p**gamma) * divergence
    loss = TeacherLoss()(
        logits_of(*own), logits_of(*teacher), torch.tensor(mask).reshape(1, 1, 1, -1), gamma
    )
    assert loss.item() == pytest.approx(TEACHER_WEIGHT * total / 4, rel=1e-9)


@pytest.mark.parametrize("true", [0.0, 1.0])
@pytest.mark.parametrize("teacher", [0.02, 0.5, 0.9])
def test_every_pixel_is_drawn_to_the_teachers_probability_whatever_the_mask_says(teacher, true):
    for own in (0.01, 0.3, teacher, 0.97):
        logits = logits_of(own).requires_grad_()
        TeacherLoss()(logits, logits_of(teacher), torch.full((1, 1, 1, 1), true), 1.0).backward()
        weight = TEACHER_WEIGHT * (0.75 * (1 - own) if true else 0.25 * own)
        assert logits.grad[0, 1].item() == pytest.approx(
            weight * (own - teacher), rel=1e-6, abs=1e-12
        )


@pytest.mark.parametrize("margin", [20.0, 200.0, 1e4])
def test_the_teacher_loss_is_finite_however_sure_both_are(margin):
    for sign in (-1, 1):
        for true in (0.0, 1.0):
            logits = torch.tensor([-margin, margin]).reshape(1, 2, 1, 1).requires_grad_()
            loss = TeacherLoss()(
                logits, sign * logits.detach(), torch.full((1, 1, 1, 1), true), 3.0
            )
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
