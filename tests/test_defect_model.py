"""The defect classifier's backbones, network, losses and metrics."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from classifier.averaged_flips import AveragedFlips
from classifier.backbone import RANDOM, spread_first_layer
from classifier.backbones import BACKBONES, HUB_NAMES, make_backbone
from classifier.defect_loss import (
    DICE_OF_ALL,
    DynamicWeightScheduler,
    MultiTaskLoss,
    balanced_weights,
)
from classifier.defect_model import (
    ARCHITECTURES,
    GUIDANCES,
    AttentionGuidedDefectClassifier,
    DefectOutput,
)
from classifier.hub_backbones import settings_of
from classifier.metrics import (
    MaskMetrics,
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    kind_figures,
)
from common.errors import UserError
from deploy.onnx_export import inspect_file, write_graph
from deploy.session import open_session
from tests.defect_images import TINY

SIZE = (70, 100)  # (height, width): a multiple of nothing that a backbone needs
GRIDS = {"vit": (5, 7), "dinov2": (5, 8), "convolution": (3, 4), "small": (9, 13)}
# an export by the newer exporter takes seconds, so --long runs those of the other families
EXPORTED = ("small", "dinov2_vits14_reg")
ALSO_EXPORTED = tuple(name for name in BACKBONES if name not in EXPORTED)


def images(count=2, channels=3, size=SIZE, seed=0):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def make_network(backbone="small", channels=3, kinds=3, seed=0, **options):
    torch.manual_seed(seed)
    options = {"decoder_channels": (8, 4), "head_channels": (8,)} | options
    made = make_backbone(backbone, channels, RANDOM, TINY)
    return AttentionGuidedDefectClassifier(made, kinds, **options)


def grid_of(name):
    if name.startswith("dinov3_vit"):
        return GRIDS["vit"]
    return GRIDS.get(name.split("_")[0], GRIDS["convolution"])


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_takes_images_of_any_size_and_trains(name):
    network = make_network(name, channels=2)
    features = network.backbone(images(channels=2))
    dim, grid = network.backbone.dim, grid_of(name)
    assert features.class_token.shape == (2, dim) and features.grid.shape == (2, dim, *grid)
    padded = [cells * network.backbone.stride for cells in grid]
    expected = [
        (2, width, *(side // stride for side in padded)) for stride, width in network.backbone.skips
    ]
    assert [tuple(skip.shape) for skip in features.skips] == expected
    output = network(images(channels=2))
    assert output.mask_logits.shape == (2, 1, *SIZE) and output.attention.shape == (2, *grid)
    before = {key: tensor.clone() for key, tensor in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    truth = (images(channels=1, seed=1) > 0.7).float()
    loss = MultiTaskLoss()(output, torch.tensor([0, 2]), truth, torch.tensor([True, True]))
    loss.backward()
    optimizer.step()
    still = [key for key, tensor in network.named_parameters() if torch.equal(tensor, before[key])]
    # of DINOv2 only pre-training uses it; a bias before a normalization may have no gradient
    assert not [key for key in still if "mask_token" not in key and "bias" not in key], still
    again = make_backbone(name, 2, RANDOM, network.backbone.config)
    again.load_state_dict(network.backbone.state_dict())  # a checkpoint holds no more than that


@pytest.mark.parametrize("name", HUB_NAMES)
def test_the_configurations_are_those_of_the_published_networks(name):
    import transformers

    kind, settings = settings_of(name)
    with torch.device("meta"):
        config = type(transformers.AutoConfig.for_model(kind))(**settings)
        parameters = sum(
            tensor.numel() for tensor in transformers.AutoModel.from_config(config).parameters()
        )
    published = {
        "vits": 22, "vits16plus": 29, "vitb": 86, "vitl": 304, "tiny": 28, "small": 49, "base": 88,
        "large": 196, "resnet18": 11.2, "resnet34": 21.3, "resnet50": 23.5,
    }  # fmt: skip
    words = (name, *name.split("_"), *(word[:4] for word in name.split("_")))
    millions = next(published[word] for word in words if word in published)
    assert parameters / 1e6 == pytest.approx(millions, rel=0.03)


def test_every_token_of_a_transformer_has_its_place_in_the_grid():
    torch.manual_seed(0)
    for name in ("dinov2_vits14_reg", "dinov3_vits16"):
        backbone = make_backbone(name, 3, RANDOM, TINY | {"num_hidden_layers": 1}).eval()
        side = backbone.stride
        flat = torch.full((1, 3, 4 * side, 5 * side), 0.5)
        changed = flat.clone()
        changed[:, :, 2 * side : 3 * side, 4 * side :] = 1.0
        with torch.no_grad():
            moved = (backbone(changed).grid - backbone(flat).grid).abs().sum(dim=1)[0]
        assert divmod(moved.argmax().item(), 5) == (2, 4)


def test_grey_images_are_repeated_and_other_channels_share_the_first_layers_weights():
    torch.manual_seed(0)
    weight = torch.rand(4, 3, 3, 3)
    image = images(1, 1, (8, 8))
    spread = spread_first_layer(weight, 5)
    repeated = functional.conv2d(image.expand(-1, 3, -1, -1), weight)
    assert torch.allclose(
        functional.conv2d(image.expand(-1, 5, -1, -1), spread), repeated, atol=1e-5
    )
    colour, grey = (make_backbone("resnet18", channels, RANDOM, TINY) for channels in (3, 1))
    grey.load_state_dict(colour.state_dict())
    picture = images(1, 1)
    expected = colour.eval()(picture.expand(-1, 3, -1, -1)).grid
    assert torch.equal(grey.eval()(picture).grid, expected)


@pytest.mark.parametrize("name", ["resnet18", "dinov3_vits16"])
def test_weights_of_a_folder_come_back_exactly(name, tmp_path):
    made = make_backbone(name, 3, RANDOM, TINY)
    made.network.save_pretrained(tmp_path)
    read = make_backbone(name, 3, str(tmp_path))
    expected = made.state_dict()
    assert expected.keys() == read.state_dict().keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in read.state_dict().items())
    assert read.config["num_channels"] == 3 and read.dim == made.dim
    five = make_backbone(name, 5, str(tmp_path))
    assert five(images(channels=5)).grid.shape[1] == made.dim
    other = "convnext_tiny" if name == "resnet18" else "dinov2_vits14"
    with pytest.raises(UserError, match="found a network of type"):
        make_backbone(other, 3, str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="--pretrained"):
        make_backbone(name, 3, str(tmp_path))


def test_a_backbone_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"dinov3_vitb14, expected one of small, .*dinov3_vitb16"):
        make_backbone("dinov3_vitb14", 3)
    with pytest.raises(UserError, match="found no config"):
        make_backbone("resnet18", 3, str(tmp_path))
    with pytest.raises(UserError, match=r"--pretrained: found .* for the backbone small"):
        make_backbone("small", 3, str(tmp_path))
    with pytest.raises(UserError, match="settings that make no network"):
        make_backbone("dinov3_vits16", 3, RANDOM, {"hidden_size": "wide"})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="requirements-classifier") as failure:
        make_backbone("resnet18", 3)
    assert "\n" not in str(failure.value)


class Outputs(nn.Module):
    """The network's outputs as a file has them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pictures):
        output = self.network(pictures)
        return output.logits, output.mask_logits, output.attention


@pytest.mark.parametrize(
    "name", [*EXPORTED, *(pytest.param(name, marks=pytest.mark.long) for name in ALSO_EXPORTED)]
)
def test_onnx_runtime_says_what_the_network_says(name, tmp_path):
    network = make_network(name)
    network(images(8))  # batch norm statistics
    outputs, path = Outputs(network).eval(), tmp_path / "file.onnx"
    write_graph(outputs, images(3), 18, path, ("logits", "mask", "attention"))
    session = open_session(path)
    for batch in (1, 3):
        pictures = images(batch, seed=batch)
        with torch.no_grad():
            expected = outputs(pictures)
        for found, value in zip(session.run(None, {"input": pictures.numpy()}), expected):
            assert np.abs(found - value.numpy()).max() <= 1e-4
    assert not torch.equal(*outputs(images(2))[0])  # images differ, and so does what is said


@pytest.mark.parametrize("name", ("resnet18", "convnext_tiny", "dinov2_vits14", "dinov3_vits16"))
def test_networks_of_transformers_are_written_in_opset_17_too(name, tmp_path):
    network = make_network(name)
    network(images(8))  # batch norm statistics
    outputs, path = Outputs(network).eval(), tmp_path / "file.onnx"
    write_graph(outputs, images(3), 17, path, ("logits", "mask", "attention"))
    inspect_file(path, 17)
    session, pictures = open_session(path), images(3, seed=3)
    with torch.no_grad():
        expected = outputs(pictures)
    for found, value in zip(session.run(None, {"input": pictures.numpy()}), expected):
        assert np.abs(found - value.numpy()).max() <= 1e-4


def test_what_opset_17_cannot_write_is_one_line(tmp_path, capfd):
    outputs = Outputs(make_network("dinov2_vits14_reg")).eval()
    with pytest.raises(UserError, match=r"bicubic2d_aa.*expected 18 or newer") as failure:
        write_graph(outputs, images(3), 17, tmp_path / "file.onnx", ("logits", "mask", "attention"))
    assert "\n" not in str(failure.value) and capfd.readouterr() == ("", "")


def test_dinov3s_positions_are_those_of_transformers():
    from transformers.models.dinov3_vit import modeling_dinov3_vit

    made = make_backbone("dinov3_vits16", 3, RANDOM, TINY)
    theirs = modeling_dinov3_vit.DINOv3ViTRopePositionEmbedding(made.network.config)
    for size in ((64, 112), (224, 224)):
        pictures = images(size=size)
        found, expected = made.network.rope_embeddings(pictures), theirs(pictures)
        assert all(torch.equal(*pair) for pair in zip(found, expected))


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_guidance_says_whether_the_class_changes_the_mask(guidance):
    network = make_network(guidance=guidance)
    output = network(images())
    output.logits[:, 0].sum().backward()
    gradient = network.decoder.last.weight.grad
    assert (gradient is None) == (guidance == "stopped")
    if gradient is not None:
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_has_what_it_says(architecture):
    network = make_network(architecture=architecture).eval()
    output = network(images())
    assert output.logits.shape == (2, 3)
    assert (output.mask_logits is None) == (architecture == "classification")
    assert (output.attention is None) == (architecture == "classification")
    network.train()(images()).logits.sum().backward()  # one image more or less changes nothing


def test_a_defect_of_one_cell_counts_as_much_as_a_large_one():
    network = make_network()
    grid = torch.zeros(1, network.backbone.dim, 37, 37)
    grid[:, 5, 20, 11] = 1.0
    attention = torch.zeros(1, 1, 37, 37)
    attention[:, :, 20, 11] = 1 / 64  # one pixel of the cell
    seen = []
    network.enhancer = nn.Identity()
    seen = network._guided(grid, attention)[0]
    assert seen[5] == pytest.approx(1.0) and seen.sum() == pytest.approx(1.0)
    assert torch.isfinite(network._guided(grid, torch.zeros_like(attention))).all()


def test_a_mask_alone_tells_defects_from_good_and_no_kind():
    network = make_network(architecture="segmentation")
    quiet = torch.full((1, 1, 8, 8), -5.0)
    loud = quiet.clone()
    loud[0, 0, 3, 4] = 5.0
    shares = [network._logits_of(logits).softmax(dim=1)[0] for logits in (quiet, loud)]
    assert shares[0][0] > 0.99 and shares[1][0] < 0.01
    assert shares[1][1] == shares[1][2]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_mean_over_flips_is_the_same_for_an_image_and_its_mirror_images(architecture):
    network = make_network(architecture=architecture).eval()
    averaged, given = AveragedFlips(network), images(3, size=(22, 29))  # no multiple of the stride
    with torch.no_grad():
        found, plain = averaged(given), network(given)
        views = [network(given.flip(axes)) for axes in ((2,), (3,), (2, 3))]
        expected = torch.stack([plain.logits, *(view.logits for view in views)]).mean(dim=0)
        assert torch.allclose(found.logits, expected, atol=1e-6)
        assert not torch.allclose(found.logits, plain.logits, atol=1e-5)
        for axes in ((2,), (3,), (2, 3)):
            turned = averaged(given.flip(axes))
            assert torch.allclose(turned.logits, found.logits, atol=1e-5)
            if architecture != "segmentation":
                assert torch.allclose(turned.embedding, found.embedding, atol=1e-5)
            if architecture != "classification":
                mask = turned.mask_logits.flip(axes)
                assert torch.allclose(mask, found.mask_logits, atol=1e-5)
    if architecture == "classification":
        assert found.mask_logits is None and found.attention is None
        return
    assert found.mask_logits.shape == plain.mask_logits.shape
    on_grid = network.on_grid(found.mask_logits, plain.attention.shape[1:])
    assert torch.equal(found.attention, on_grid[:, 0])


def test_a_frozen_backbone_has_no_gradient_and_keeps_its_statistics():
    network = make_network().freeze_backbone()
    before = {key: tensor.clone() for key, tensor in network.backbone.state_dict().items()}
    network.train()
    output = network(images())
    (output.logits.sum() + output.mask_logits.sum()).backward()
    assert all(tensor.grad is None for tensor in network.backbone.parameters())
    assert network.head[-1].weight.grad is not None
    after = network.backbone.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert network.decoder.training and not network.backbone.training


def output_of(logits, mask_logits, log_variances=None):
    return DefectOutput(torch.tensor(logits), mask_logits, None, log_variances)


MASKS = torch.zeros(3, 1, 4, 4)
MASKS[1, 0, 1:3, 1:3] = 1.0
LOGITS = [[2.0, 0.0], [0.5, 1.0], [1.0, 1.0]]
LABELS = torch.tensor([0, 1, 1])


def test_images_without_a_mask_contribute_to_the_kind_alone():
    mask_logits = images(3, 1, (4, 4)).requires_grad_()
    known, none = torch.tensor([True, True, False]), torch.tensor([False] * 3)
    for seg_loss in ("bce", "dice", "bce_dice"):
        loss = MultiTaskLoss(seg_loss=seg_loss)
        whole = loss(output_of(LOGITS, mask_logits), LABELS, MASKS, known)
        (gradient,) = torch.autograd.grad(whole, mask_logits)
        assert gradient[1].abs().sum() > 0 and gradient[2].abs().sum() == 0
        # an empty mask has no Dice
        assert (gradient[0].abs().sum() > 0) == ("bce" in seg_loss)
        unknown = loss(output_of(LOGITS, mask_logits), LABELS, MASKS * torch.nan, none)
        kind = loss.kind_loss(torch.tensor(LOGITS), LABELS)
        assert unknown.item() == pytest.approx(loss.alpha * kind.item())
        (gradient,) = torch.autograd.grad(unknown, mask_logits)
        assert gradient.abs().sum() == 0


def test_dice_of_all_images_empties_the_mask_of_a_good_one():
    pulls = {}
    for seg_loss in ("bce_dice", DICE_OF_ALL):
        mask_logits = torch.zeros(3, 1, 4, 4, requires_grad=True)
        loss = MultiTaskLoss(seg_loss=seg_loss)
        loss.mask_loss(mask_logits, MASKS, torch.tensor([True] * 3)).backward()
        pulls[seg_loss] = mask_logits.grad[0].sum()
    assert pulls[DICE_OF_ALL] > pulls["bce_dice"] > 0  # a step goes against it: to an empty mask


def test_a_step_without_any_mask_is_finite_and_moves_the_class_head():
    network = make_network()
    before = network.head[-1].weight.clone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    none = torch.tensor([False, False])
    masks = torch.zeros(2, 1, *SIZE)
    loss = MultiTaskLoss()(network(images()), torch.tensor([0, 1]), masks, none)
    loss.backward()
    optimizer.step()
    assert all(tensor.isfinite().all() for tensor in network.parameters())
    assert not torch.equal(before, network.head[-1].weight)


def test_dynamic_weights_move_from_the_mask_to_the_kind_and_do_not_begin_again():
    step, linear = (DynamicWeightScheduler(name) for name in ("step", "linear"))
    assert [step.weights(epoch) for epoch in (0, 19, 20, 90)] == [(0.5, 1.0)] * 2 + [(1.0, 0.3)] * 2
    assert linear.weights(10) == pytest.approx((0.75, 0.65))
    assert linear.weights(20) == pytest.approx((1.0, 0.3))
    assert DynamicWeightScheduler("step", epochs_before=30).weights(0) == (1.0, 0.3)
    early = DynamicWeightScheduler("step", switch_epoch=3)
    assert [early.weights(epoch) for epoch in (2, 3)] == [(0.5, 1.0), (1.0, 0.3)]


def test_log_variances_are_trained_to_the_losses():
    network = make_network(has_log_variances=True)
    assert "log_variances" in dict(network.named_parameters())
    variances = torch.zeros(2, requires_grad=True)
    mask_logits, known = images(3, 1, (4, 4)), torch.tensor([True] * 3)
    loss = MultiTaskLoss("uncertainty")
    terms = (
        loss.kind_loss(torch.tensor(LOGITS), LABELS).item(),
        loss.mask_loss(mask_logits, MASKS, known).item(),
    )
    optimizer = torch.optim.Adam([variances], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(output_of(LOGITS, mask_logits, variances), LABELS, MASKS, known).backward()
        optimizer.step()
    # exp(-s) L + s is least at s = log L
    assert variances.tolist() == pytest.approx(np.log(terms).tolist(), abs=0.01)


def test_focal_loss_and_class_weights():
    logits = torch.tensor(LOGITS)
    plain = MultiTaskLoss().kind_loss(logits, LABELS)
    assert MultiTaskLoss(focal=(1.0, 0.0)).kind_loss(logits, LABELS).item() == pytest.approx(
        plain.item()
    )
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    focal, truth = MultiTaskLoss(focal=(0.25, 2.0)), torch.tensor([0])
    share = [
        focal.kind_loss(one, truth) / MultiTaskLoss().kind_loss(one, truth) for one in (easy, hard)
    ]
    assert share[1].item() == pytest.approx(0.25 * 0.5**2) and share[0] < share[1] / 100
    weights = balanced_weights([3, 1])
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    for focal in (None, (0.25, 2.0)):
        loss = MultiTaskLoss(focal=focal, class_weights=weights)
        labels = torch.tensor([0, 0, 0, 1])
        equal = loss.kind_loss(torch.zeros(4, 2), labels)
        one = loss.kind_loss(torch.zeros(1, 2), labels[:1])
        assert equal.item() == pytest.approx(one.item())


def test_metrics_of_kinds_count_each_kind_the_same():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])
    confusion = confusion_matrix(labels, predicted, 3)
    assert confusion.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert accuracy(confusion) == pytest.approx(4 / 6)
    assert balanced_accuracy(confusion) == pytest.approx((3 / 4 + 1 / 2) / 2)
    figures = kind_figures(confusion)
    assert (figures[1].precision, figures[1].recall, figures[1].f1) == (0.5, 0.5, 0.5)
    assert figures[2].recall is None and figures[2].precision == 0.0 and figures[2].count == 0
    assert balanced_accuracy(np.zeros((2, 2), int)) is None


def test_masks_are_measured_on_defective_images_alone():
    truth, half = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    truth[:2], half[:1] = True, True
    metrics = MaskMetrics()
    assert metrics.figures() == {"iou": None, "dice": None, "good_masked": None}
    metrics.update(half, truth)
    metrics.update(truth, truth)
    for predicted in (np.zeros((4, 4), bool), half, np.zeros((4, 4), bool)):
        metrics.update(predicted, np.zeros((4, 4), bool))
    expected = {"iou": (0.5 + 1) / 2, "dice": (2 / 3 + 1) / 2, "good_masked": 1 / 3}
    assert metrics.figures() == pytest.approx(expected)
