"""The name and version of this suite."""

PRODUCT = "Background Removal Net 1.0"
