"""The defect classifier's name, as its files and the other tools know it."""

TOOL = "defect classifier"  # written into checkpoints and ONNX files
