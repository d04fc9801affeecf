"""The reference-free detector's models, as the tool's other modules and its files know them."""

TOOL = "autoencoder"  # written into checkpoints, libraries and ONNX files
