"""What benchmarks/classifier.py compares: rows of flags, and the figures that are asked for."""

from dataclasses import dataclass

DEFAULTS, WEIGHTS, LOSSES = "defaults", "weights", "losses"
MASKS, IMAGES, BACKBONES = "masks", "images", "backbones"
TABLES = {
    DEFAULTS: "the defaults, and what needs no network",
    WEIGHTS: "architectures, guidance and weights of the losses",
    LOSSES: "losses and augmentation",
    MASKS: "masks for a share of the defective images",
    IMAGES: "numbers of images",
    BACKBONES: "backbones",
}
RECOMMENDED, FLIPS = "recommended", "averaged over flips"
TREES = "trees without a network"
LEFT_OUT = "a kind left out of the training"
# Of all rows but the recommended one: 10 of 45 epochs, and a decoder that ends at half the
# resolution, which takes near half of the time of a step. Both losses count alike, and the
# class changes the mask, as in the plan that the rows test. Dynamic weights switch after two thirds
# of the epochs, later than in the defaults.
PLAN = ("--alpha", 1, "--guidance", "mean")
SHORT = ("--epochs", 10, "--lr", 3e-3, "--decoder_channels", 32, 16, *PLAN)
SWITCH = ("--switch_epoch", 7)
BASE = "guided by its mask, fixed weights"


@dataclass(frozen=True)
class Row:
    """One line of a table: a training that differs from the base in one thing.

    `flags` are flags of classifier.train_defect_model, after SHORT unless the row `is_long`.
    `images` is the number of images to learn from (None: all), and `masked` the share of the
    defective ones with a mask. `needs_lite0`: it takes the ImageNet weights of EfficientNet-Lite0.
    `averages_flips`: the test has --average_flips; the training is the same without it.
    """

    name: str
    table: str = WEIGHTS
    flags: tuple[object, ...] = ()
    images: int | None = None
    masked: float = 1.0
    needs_lite0: bool = False
    is_long: bool = False
    averages_flips: bool = False

    @property
    def training_flags(self) -> tuple[object, ...]:
        """All flags of the row's training but those of the data and the machine."""
        return self.flags if self.is_long else (*SHORT, *self.flags)


ROWS = (
    Row(RECOMMENDED, DEFAULTS, is_long=True),
    Row(FLIPS, DEFAULTS, is_long=True, averages_flips=True),
    Row(TREES, DEFAULTS),
    Row(BASE),
    Row("segmentation alone", flags=("--architecture", "segmentation")),
    Row("classification alone", flags=("--architecture", "classification")),
    Row("two branches", flags=("--architecture", "dual_branch")),
    Row("guidance stopped", flags=("--guidance", "stopped")),
    Row("guidance concatenated", flags=("--guidance", "concatenated")),
    Row("a quarter of the weight for the kind", flags=("--alpha", 0.25)),
    Row("a quarter, guidance stopped", flags=("--alpha", 0.25, "--guidance", "stopped")),
    Row("dynamic weights, step", flags=("--use_dynamic_weights", *SWITCH)),
    Row(
        "dynamic weights, linear",
        flags=("--use_dynamic_weights", "--weight_schedule", "linear", *SWITCH),
    ),
    Row("uncertainty weights", flags=("--use_uncertainty_weighting",)),
    Row("Dice over all images", LOSSES, ("--seg_loss", "bce_dice_all")),
    Row("cross-entropy of the mask alone", LOSSES, ("--seg_loss", "bce")),
    Row("Dice of the mask alone", LOSSES, ("--seg_loss", "dice")),
    Row("focal loss", LOSSES, ("--focal_loss",)),
    Row("without augmentation", LOSSES, ("--augment", "False")),
    Row("masks for 50 %", MASKS, masked=0.5),
    Row("masks for 25 %", MASKS, masked=0.25),
    Row("masks for 10 %", MASKS, masked=0.1),
    Row("masks for 5 %", MASKS, masked=0.05),
    Row("masks for none", MASKS, masked=0.0),
    Row("masks for 10 %, guidance stopped", MASKS, ("--guidance", "stopped"), masked=0.1),
    # as many steps as the base has where there are 300 images, and half as many where 100
    Row("100 images", IMAGES, ("--epochs", 40), 100),
    Row("300 images", IMAGES, ("--epochs", 30), 300),
    Row(
        "300 images, classification alone",
        IMAGES,
        ("--epochs", 30, "--architecture", "classification"),
        300,
    ),
    Row(
        "EfficientNet-Lite0, frozen",
        BACKBONES,
        ("--backbone", "efficientnet_lite0", "--freeze_backbone"),
        needs_lite0=True,
    ),
    Row(
        "EfficientNet-Lite0, tuned, 3 epochs",
        BACKBONES,
        ("--backbone", "efficientnet_lite0", "--epochs", 3, "--lr", 1e-3),
        needs_lite0=True,
    ),
    Row(
        "EfficientNet-Lite0 in two stages, 3 and 3 epochs",
        BACKBONES,
        (
            *("--backbone", "efficientnet_lite0", "--two_stages", "--stage1_epochs", 3),
            *("--epochs", 3, "--lr", 1e-3),
        ),
        needs_lite0=True,
    ),
)

# of the recommended row: figure, its name in the results, floor, goal
FLOORS = (
    ("accuracy", "accuracy", 0.85, 0.95),
    ("IoU", "iou", 0.55, 0.75),
    ("Dice", "dice", 0.68, 0.85),
)
MOST_ECE = 0.03  # after the temperature
TARGET_ERROR, MOST_ERROR = 0.01, 0.02  # of --target_error, and of the images that are sure then
# of DeepPCB, in the mean of both directions
LEAST_BOARDS, LEAST_TEMPLATE_GAIN = 0.85, 0.05

BOARD_ROWS = (
    ("board and template", True, ()),
    ("board alone", False, ()),
    ("board and template, classification alone", True, ("--architecture", "classification")),
    ("board and template, resnet18", True, ("--backbone", "resnet18")),
    ("board and template, by the plan", True, PLAN),
    ("board alone, by the plan", False, PLAN),
)
BOARD_FLAGS = ("--epochs", 150)  # there are few crops: as many steps as of 1,000 images

TINY = ("--epochs", 1, "--batch_size", 8, "--decoder_channels", 4, "--head_channels", 4)
