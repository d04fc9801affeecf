"""Make and check data sets of labelled pictures for the defect classifier.

    # folders of pictures: sub-folders of the defective ones are kinds of defect
    python classifier/prepare_defect_data.py organize --defect_images shots/defects \\
        --defect_masks shots/masks --normal_images shots/good --output_dir dataset/parts
    # what is wrong with a data set; nothing is written
    python classifier/prepare_defect_data.py --check_data --data_root dataset/parts
    # generated pictures, which need no source
    python classifier/prepare_defect_data.py dummy --output_dir dataset/dummy
    # cut-outs of strips around what the detector found in them
    python classifier/prepare_defect_data.py crops --detections output/onnx/detections.csv \\
        --strips dataset/demo/test --output_dir dataset/crops
    # the same without a reviewer, of good strips that are scored and painted
    python classifier/prepare_defect_data.py crops --from_good dataset/demo/train/good \\
        --method registered --output_dir dataset/crops
    # the six kinds of defect of DeepPCB
    python classifier/prepare_defect_data.py deeppcb --source DeepPCB/PCBData \\
        --output_dir dataset/pcb_kinds

A data set is ROOT/{train,valid,test}/KIND/NAME.EXT, with masks in ground_truth_train/,
ground_truth_valid/ and ground_truth/. The kind without a defect is `good`. The output folder
appears once it is complete; one that holds files is refused. The same --seed gives the same files.
"""

if __name__ == "__main__":
    if not __package__:  # started as a file: modules are found beside this file's folder
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import sys
from pathlib import Path

from classifier import organize
from classifier.check_data import MISSING_KIND, check_folder
from classifier.crops import PREVIEWS, UNLABELLED, CropFacts, CropSet, write_crop_facts
from classifier.cut_detections import CropSettings, cut_detections
from classifier.cut_good_strips import cut_good_strips
from classifier.data_flags import add_commands, require_consistent
from classifier.deeppcb_crops import write_deeppcb
from classifier.dummy_set import write_dummy_set
from classifier.strip_detector import open_detector
from common.command_parser import command_parser
from common.errors import run_command
from common.files import new_folder
from common.notes import warn


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process). A wrong one ends the process."""
    parser = command_parser(__doc__)
    add_commands(parser)
    parsed = parser.parse_args(arguments)
    require_consistent(parser, parsed)
    return parsed


def prepare(arguments: argparse.Namespace) -> int:
    """Make or check a data set and return the exit code: 1 where something is wrong with it.

    Raises `UserError` when a source is not as expected, or the output folder is not new.
    """
    if arguments.command is None:
        return check(arguments)
    make = {
        "organize": organize_pictures,
        "crops": cut_crops,
        "deeppcb": cut_deeppcb,
        "dummy": draw_dummy,
    }[arguments.command]
    return make(arguments)


def check(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a data set."""
    findings = check_folder(arguments.checked_root, arguments.checked_input_max)
    print(findings.describe())
    return 0 if findings.is_clean else 1


def organize_pictures(arguments: argparse.Namespace) -> int:
    """Check the sources and write the data set, unless something is wrong."""
    sources, unused = organize.find_sources(
        arguments.defect_images, arguments.defect_masks, arguments.normal_images
    )
    shares = arguments.valid_share, arguments.test_share
    made = organize.plan(
        sources, unused, shares, arguments.seed, arguments.group_by, arguments.input_max
    )
    print(made.findings.describe())
    if arguments.check_data:
        return 0 if made.findings.is_clean else 1
    missing = made.findings.problems.pop(MISSING_KIND, [])
    if not made.findings.is_clean:
        return 1
    for line in missing:
        warn(line)
    organize.write(arguments.output_dir, made, arguments.link)
    print_next(arguments.output_dir)
    return 0


def cut_crops(arguments: argparse.Namespace) -> int:
    """Cut crops around detections, or around nuisances and painted points of good strips."""
    settings = CropSettings(
        arguments.size,
        arguments.align,
        arguments.input_max,
        arguments.img_format,
        arguments.channels,
    )
    detector = None
    if arguments.from_good:
        detector = open_detector(
            arguments.model_path, arguments.method, arguments.input_max, arguments.channels
        )
    with new_folder(arguments.output_dir) as folder:
        crops = CropSet(folder)
        if detector:
            cut_good_strips(
                crops,
                arguments.from_good,
                detector,
                arguments.paint,
                arguments.target_false_alarms,
                arguments.seed,
                settings,
            )
        else:
            heatmaps = arguments.heatmaps or arguments.detections.parent
            cut_detections(
                crops,
                arguments.detections,
                arguments.strips,
                heatmaps,
                arguments.labels,
                settings,
            )
        shares = arguments.valid_share, arguments.test_share
        counts = crops.finish(shares, arguments.seed, arguments.group_by)
        facts = CropFacts(arguments.size, arguments.align, frozenset(crops.strips))
        write_crop_facts(folder, facts)
    listed = ", ".join(f"{label or UNLABELLED} {count}" for label, count in sorted(counts.items()))
    print(f"crops: {listed}")
    if "" in counts:
        print(
            f"to label the others, sort {arguments.output_dir / PREVIEWS} into folders, such as "
            f"good and defect, and give them as --labels with another --output_dir"
        )
    print_next(arguments.output_dir)
    return 0


def cut_deeppcb(arguments: argparse.Namespace) -> int:
    """Cut out the defects of DeepPCB."""
    with new_folder(arguments.output_dir) as folder:
        write_deeppcb(
            folder, arguments.source, arguments.size, arguments.seed, arguments.test_groups
        )
    print_next(arguments.output_dir)
    return 0


def draw_dummy(arguments: argparse.Namespace) -> int:
    """Draw the dummy set."""
    with new_folder(arguments.output_dir) as folder:
        write_dummy_set(
            folder,
            arguments.num_defect,
            arguments.num_normal,
            arguments.size,
            arguments.seed,
            (arguments.valid_share, arguments.test_share),
            arguments.faint,
        )
    print_next(arguments.output_dir)
    return 0


def print_next(root: Path) -> None:
    """Print where the data set is."""
    print(f"the data set is in {root}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: prepare(parse_args())))
