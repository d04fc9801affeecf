"""What benchmarks/autoencoder.py compares: trainings, libraries and rows, as plain data."""

from dataclasses import dataclass

# Stand in flags of LIBRARIES for the best checkpoint of a row's model, the number of groups, and
# VECTORS_A_CLASS for each of them.
MODEL, GROUPS, VECTORS = "MODEL", "GROUPS", "VECTORS"
VECTORS_A_CLASS = 3000
CLASSES_GIVEN = "classes given"  # a row whose baseline or model is one for each class

# Flags of autoencoder.trainer, by the name of the training. What they leave out is the preset's.
PLAN = ("--task", "reconstruct", "--skips", "none", "--epochs", 4, "--validate_every", 4)
TRAININGS: dict[str, tuple[object, ...]] = {
    "segment": ("--task", "segment"),
    "segment, one a class": ("--task", "segment", "--per_class", "--epochs", 2),
    "repair": ("--task", "repair", "--epochs", 4, "--validate_every", 4),
    "plan": PLAN,
    "ssim 0.8, l1 0.2": (*PLAN, "--loss", "ssim:0.8,l1:0.2"),
    "ssim 0.8, l1 0.2, lr 0.1": (*PLAN, "--loss", "ssim:0.8,l1:0.2", "--lr", 0.1),
    "ssim 0.5, l1 0.5": (*PLAN, "--loss", "ssim:0.5,l1:0.5"),
    "ssim 0.1, l1 0.9": (*PLAN, "--loss", "ssim:0.1,l1:0.9"),
    "l1": (*PLAN, "--loss", "l1"),
    "l2": (*PLAN, "--loss", "mse"),
    "l1, perceptual": (*PLAN, "--loss", "l1,perceptual", "--perceptual", "random"),
    "depth 2": (*PLAN, "--depth", 2),
    "skips shallow": (*PLAN, "--skips", "shallow"),
    "skips all": (*PLAN, "--skips", "all"),
}
# flags of every training with --quick
QUICK = ("--epoch_crops", 256, "--base_channels", 8, "--validate_every", 4)
TINY = ("--epochs", 1, "--epoch_crops", 8, "--bs", 4, "--input_size", 32, "--base_channels", 2)

# Flags of autoencoder.feature_library, by the name of the library.
FINE = ("--cell", 4, "--memory", VECTORS)
LIBRARIES: dict[str, tuple[object, ...]] = {
    "bank": FINE,
    "bank, not flat": (*FINE, "--flatten", 0),
    "bank, whitened": (*FINE, "--metric", "whitened"),
    "bank, random memory": (*FINE, "--selection", "random"),
    "bank, cell 8": ("--cell", 8, "--memory", VECTORS),
    "bank, memory 4000": ("--cell", 4, "--memory", 4000),
    "bank, image": ("--level", "image"),
    "random": ("--features", "random"),
    "random, image": ("--features", "random", "--level", "image"),
    "encoder": ("--features", "encoder", "--model_path", MODEL),
    "encoder, image": ("--features", "encoder", "--model_path", MODEL, "--level", "image"),
    "encoder and bank": ("--features", "encoder", "bank", "--model_path", MODEL),
    "lite0": ("--features", "lite0"),
    "lite0, image": ("--features", "lite0", "--level", "image"),
    "lite0 and bank": ("--features", "lite0", "bank"),
    "bank, none": (*FINE, "--routing", "none"),
    "bank, clusters": (*FINE, "--clusters", GROUPS),
    "bank, auto": (*FINE, "--clusters", "auto"),
    "bank, histogram": (*FINE, "--routing", "histogram"),
    # only their clusters count
    "clusters of the encoder": (
        *("--features", "encoder", "--model_path", MODEL),
        *("--level", "image", "--clusters", GROUPS),
    ),
}


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    `baseline` is one of trivial_scores.py, else `model` names a training and `library` a library:
    both, or one of them, score, with further flags `score` of autoencoder.inference. `clusters` is
    a library whose clusters alone are shown. `is_ensemble` takes the models of all seeds. `needs`
    says what a data set must have: several groups, or the weights of lite0.
    """

    name: str
    sentence: str
    baseline: str = ""
    model: str = ""
    library: str = ""
    score: tuple[object, ...] = ()
    clusters: str = ""
    is_ensemble: bool = False
    needs: str = ""


def _scales(*flags: object) -> tuple[object, ...]:
    return ("--windows", 64, 96, 128, *flags)


BASELINES = (
    Row(
        "mean picture, classes given",
        "The trivial score: works where nothing moves, and here everything does.",
        baseline="mean picture",
    ),
    Row(
        "PCA of patches, classes given",
        "What a linear model of 8 x 8 pixels cannot express: the baseline to beat.",
        baseline="patch PCA",
    ),
)
LIBRARY = ("--score", "library")
BOTH = ("--score", "library", "patches", "--top_share", 0.005)
LIBRARY_ROWS = (
    Row(
        "library and patches",
        "No network: features that leave brightness out, and pixels that keep it.",
        library="bank",
        score=BOTH,
    ),
    Row(
        "library and patches, top share 0.001",
        "The score of few pixels.",
        library="bank",
        score=(*BOTH[:-1], 0.001),
    ),
    Row(
        "library and patches, top share 0.02",
        "The score of many pixels.",
        library="bank",
        score=(*BOTH[:-1], 0.02),
    ),
    Row(
        "library and patches, not flat",
        "Whole rows and columns count: good pictures differ in them.",
        library="bank, not flat",
        score=BOTH,
    ),
    Row(
        "library, bank",
        "The nearest of a good vector, by the metric that painted damage teaches.",
        library="bank",
        score=LIBRARY,
    ),
    Row(
        "library, bank, whitened",
        "The same without that metric: every direction counts alike.",
        library="bank, whitened",
        score=LIBRARY,
    ),
    Row(
        "library, bank, random memory",
        "Vectors by chance in place of those that cover: no worse where no good ones are rare.",
        library="bank, random memory",
        score=LIBRARY,
    ),
    Row(
        "library, bank, cell 8",
        "A quarter of the vectors: small damage is lost in them.",
        library="bank, cell 8",
        score=LIBRARY,
    ),
    Row(
        "library, bank, memory 4000",
        "Less memory: 4,000 vectors in all, not 3,000 a class.",
        library="bank, memory 4000",
        score=LIBRARY,
    ),
    Row(
        "patches",
        "Raw pixels under mixtures of Gaussians, good and damaged: the rest of the first row.",
        library="bank",
        score=("--score", "patches"),
    ),
    Row(
        "library, bank, one vector a picture",
        "The diary's form: it knows the class, not the defect.",
        library="bank, image",
        score=LIBRARY,
    ),
    Row(
        "library, random",
        "An untrained encoder: what a network's form alone gives.",
        library="random",
        score=LIBRARY,
    ),
    Row(
        "library, random, one vector a picture",
        "The same in the diary's form.",
        library="random, image",
        score=LIBRARY,
    ),
)
LITE0_ROWS = (
    Row(
        "library, lite0",
        "ImageNet's features, where allowed.",
        library="lite0",
        score=LIBRARY,
        needs="lite0",
    ),
    Row(
        "library, lite0, one vector a picture",
        "The diary's form with its features.",
        library="lite0, image",
        needs="lite0",
        score=LIBRARY,
    ),
    Row(
        "library, lite0 and bank",
        "Joined: deep features see what is shown, filters see how it is made.",
        library="lite0 and bank",
        needs="lite0",
        score=LIBRARY,
    ),
    Row(
        "library of lite0 and bank, and patches",
        "With the pixels, too.",
        library="lite0 and bank",
        score=BOTH,
        needs="lite0",
    ),
)
ROUTING_ROWS = (
    Row(
        "routing none",
        "One library for all classes, of the same total memory.",
        library="bank, none",
        needs="groups",
        score=BOTH,
    ),
    Row(
        "routing to as many clusters as classes",
        "No labels: k-means finds the classes, each picture goes to the nearest picture's.",
        library="bank, clusters",
        needs="groups",
        score=BOTH,
    ),
    Row(
        "routing to clusters auto",
        "No labels and no number: the silhouette decides.",
        library="bank, auto",
        needs="groups",
        score=BOTH,
    ),
    Row(
        "routing histogram",
        "The diary's two stages.",
        library="bank, histogram",
        needs="groups",
        score=BOTH,
    ),
)
SEGMENT_ROWS = (
    Row(
        "segment",
        "The mask of painted damage: one model and one z-score for all.",
        model="segment",
    ),
    Row(
        "segment, z-scores by routing",
        "The same masks, told in the spread of the class that the nearest picture names.",
        model="segment",
        library="bank",
        score=("--score", "mask"),
        needs="groups",
    ),
    Row(
        "segment, one model a class",
        "A model for each class, for nine of them as long in total: few steps each.",
        model="segment, one a class",
        needs="groups",
    ),
    Row(
        "library, encoder of segment",
        "Features of the network that learned to see painted damage.",
        model="segment",
        library="encoder",
        score=("--score", "library"),
    ),
    Row(
        "library, encoder of segment, one vector a picture",
        "The diary's form with features of its own network.",
        model="segment",
        library="encoder, image",
        score=LIBRARY,
    ),
    Row(
        "library, encoder of segment and bank",
        "Joined features.",
        model="segment",
        library="encoder and bank",
        score=("--score", "library"),
    ),
    Row(
        "segment, library and patches",
        "All three, the mean of their z-scores: they fail on different classes.",
        model="segment",
        library="bank",
        score=("--score", "mask", "library", "patches", "--top_share", 0.005),
    ),
    Row(
        "segment, library and patches, largest z",
        "The same by the most surprised of them: one false alarm of any suffices.",
        model="segment",
        library="bank",
        score=("--score", "mask", "library", "patches", "--merge", "max"),
    ),
    Row(
        "segment and library",
        "Without the patches.",
        model="segment",
        library="bank",
        score=("--score", "mask", "library"),
    ),
    Row(
        "segment, ensemble of the seeds",
        "Three short trainings: the weakest pull the best one down.",
        model="segment",
        is_ensemble=True,
    ),
)
SCALE_ROWS = (
    Row(
        "segment, three scales, sliding",
        "Windows of 64, 96 and 128 pixels: damage at the size it was painted.",
        model="segment",
        score=_scales(),
    ),
    Row(
        "segment, three scales, pyramid",
        "The same scales without overlaps: a fraction of the time.",
        model="segment",
        score=_scales("--window_mode", "pyramid"),
    ),
    Row(
        "segment, top share 0.005",
        "The score of five times as many pixels.",
        model="segment",
        score=("--top_share", 0.005),
    ),
    Row(
        "segment, top share 0.01",
        "The score of ten times as many.",
        model="segment",
        score=("--top_share", 0.01),
    ),
)
PLAN_ROWS = (
    Row(
        "the plan as written",
        "MSE and SSIM, no skips: its error is that of fine texture, good or bad.",
        model="plan",
        clusters="clusters of the encoder",
    ),
    Row(
        "the plan, score by SSIM",
        "Structure in place of grey levels.",
        model="plan",
        score=("--score", "ssim"),
    ),
    Row(
        "the plan, feature difference",
        "What its encoder sees of picture and output.",
        model="plan",
        score=("--score", "feature_difference"),
    ),
    Row(
        "0.8 SSIM, 0.2 L1",
        "The diary's collapse to grey: the output keeps a tenth of the variance.",
        model="ssim 0.8, l1 0.2",
        clusters="clusters of the encoder",
    ),
    Row(
        "0.8 SSIM, 0.2 L1, learning rate 0.1",
        "The collapse itself: one grey, whatever the picture, from the first epochs on.",
        model="ssim 0.8, l1 0.2, lr 0.1",
        clusters="clusters of the encoder",
    ),
    Row(
        "0.5 SSIM, 0.5 L1",
        "The diary's middle.",
        model="ssim 0.5, l1 0.5",
        clusters="clusters of the encoder",
    ),
    Row(
        "0.1 SSIM, 0.9 L1",
        "The diary's other end.",
        model="ssim 0.1, l1 0.9",
        clusters="clusters of the encoder",
    ),
    Row("L1", "Means of grey levels.", model="l1", clusters="clusters of the encoder"),
    Row("L2", "Squares of grey levels.", model="l2", clusters="clusters of the encoder"),
    Row(
        "L1, perceptual",
        "Features of an untrained network stand in for the diary's VGG.",
        model="l1, perceptual",
        clusters="clusters of the encoder",
    ),
    Row("depth 2", "A wide way through rebuilds defects, too.", model="depth 2"),
    Row("skips shallow", "The finest level handed on.", model="skips shallow"),
    Row("skips all", "The input is handed through, with its defects.", model="skips all"),
    Row("repair", "Undoes painted damage; real damage seldom looks like it.", model="repair"),
)
ROWS = (
    *BASELINES,
    *LIBRARY_ROWS,
    *SEGMENT_ROWS,
    *ROUTING_ROWS,
    *LITE0_ROWS,
    *PLAN_ROWS,
    *SCALE_ROWS,
)
