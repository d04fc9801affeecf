"""What an ONNX file of this suite is, in lines that need no knowledge of the suite."""

from deploy.metadata import NO_THRESHOLD

# what the outputs beside `output` hold, by their names in the file
OTHER_OUTPUTS = {
    "score": "(strips,): the heatmap's largest value",
    "detections": "(strips, {most_detections}, 3): {detections} of the strongest maxima above the "
    "threshold, -1 -1 0 behind the last one",
    "alignment": "(strips, 2, {measures}): of Ref1 and Ref2 the {alignment}",
    "inspected_contrast": "(strips,): grey levels 0-255 that points in Target need to be found",
    "contrast_map": "(strips, 1, {height}, {width}): the same of a point at each pixel",
    "missing": "(strips, 1, {height}, {width}): the probability that a pixel's difference is a "
    "feature that both references have and Target lacks",
}

MEANINGS = {
    "unit": "float32, each pixel divided by {input_max:g}, so 0 to 1",
    "raw": "float32 as the camera delivers it, 0 to {input_max:g}",
    "uint8": "uint8 as the camera delivers it, 0 to 255",
}


def summarize(entries: dict[str, str], file: str) -> list[str]:
    """Six lines: size, input, output, threshold, how to call `file`, and what it was made from.

    A file with further outputs has a line more of each, behind that of the first.

    The entries are those of a file that `read_metadata` accepts.
    """
    channels = entries["channels"].split()
    size = entries.get("image_size", "").split()
    height, width = size if len(size) == 2 else ("H", "W")
    meaning = MEANINGS[entries["input"]].format(input_max=float(entries["input_max"]))
    shape = f"(strips, {len(channels)}, {height}, {width})"
    return [
        f"size       {height} x {width} pixels, height x width; one or several strips a call",
        f"input      `input`, {shape}: {', '.join(channels)}; {meaning}",
        f"output     `output`, (strips, 3, {height}, {width}): [:, 0] is the heatmap, the "
        "probability of a defect",
        *_other_outputs(entries, height, width),
        f"threshold  {_threshold(entries)}",
        f'call       onnxruntime.InferenceSession({file!r}).run(["output"], '
        '{"input": strips})[0][:, 0]',
        f"made from  {entries.get('checkpoint') or 'no checkpoint'}, epoch "
        f"{entries.get('epoch', '?')}, by {entries.get('product', 'an unknown version')}",
    ]


def _other_outputs(entries: dict[str, str], height: str, width: str) -> list[str]:
    """A line of each output beside `output`."""
    facts = dict.fromkeys(("detections", "alignment"), "values") | {"most_detections": "N"}
    facts |= entries | {"height": height, "width": width}
    facts["measures"] = str(len(facts["alignment"].split()))
    for name in ("detections", "alignment"):
        facts[name] = facts[name].replace(" ", ", ")
    return [
        f"           `{name}`, {OTHER_OUTPUTS[name].format_map(facts)}"
        for name in entries.get("outputs", "").split()
        if name in OTHER_OUTPUTS
    ]


def _threshold(entries: dict[str, str]) -> str:
    value = entries.get("threshold", NO_THRESHOLD)
    if value == NO_THRESHOLD:
        return "none: no good strips were held out; export with --good_path FOLDER to set one"
    return (
        f"{value}: a strip is NG where its heatmap exceeds it; set for "
        f"{entries['target_false_alarms']} false alarms per good strip"
    )
