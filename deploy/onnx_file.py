"""An ONNX file as bytes: its metadata, its hash, and what it may not contain.

ONNX Runtime neither notices a changed weight nor ends a loop that has no end, so the file is looked
at before it is opened there. The format is that of protocol buffers
(protobuf.dev/programming-guides/encoding), and the numbers of the fields are those of onnx.proto.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.storage import fetch

GRAPH_HASH = "graph_sha256"  # entry with the hash of everything but the metadata
# Operations that contain a graph and may repeat it without end. No export writes any.
CONTROL_FLOW = frozenset({"Loop", "Scan", "If"})
LARGEST_ENTRY = 2**24  # bytes; a calibration on thousands of strips has less
# fields of ModelProto, GraphProto, FunctionProto, NodeProto and StringStringEntryProto
GRAPH, METADATA, FUNCTIONS = 7, 14, 25
GRAPH_NODES, FUNCTION_NODES, OP_TYPE, KEY, VALUE = 1, 7, 4, 1, 2
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types
# number of a field, its content (empty for a number), and the bytes of the whole field
Field = tuple[int, memoryview, memoryview]


def read_file(path: Path) -> dict[str, str]:
    """Return the metadata entries of an ONNX file, after checking the file.

    Raises `UserError`, without the path, when it is no whole ONNX file, when its graph is not the
    one that was exported, when it contains CONTROL_FLOW, and for entries that are not UTF-8 or
    larger than LARGEST_ENTRY.
    """
    content = memoryview(fetch(path).read_bytes())
    try:
        entries = _read_entries(content)
        if GRAPH_HASH in entries and entries[GRAPH_HASH] != graph_hash(content):
            raise UserError(
                "found a graph or weights that changed since the export, "
                "expected the file as export_onnx_fullimage.py wrote it: export again"
            )
        forbidden = CONTROL_FLOW.intersection(_operations(content))
    except (ValueError, IndexError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError("found metadata that are not UTF-8, expected text") from None
        raise UserError(
            "found no model that ONNX Runtime can load, expected a whole ONNX file"
        ) from None
    if forbidden:
        raise UserError(
            f"found the operation {min(forbidden)}, which may never end, "
            "expected a file of export_onnx_fullimage.py, which writes none"
        )
    return entries


def graph_hash(content: bytes | memoryview) -> str:
    """Return the SHA-256 of an ONNX file's fields but for the metadata, in hexadecimal.

    Raises `ValueError` or `IndexError` for a content that is no protocol buffer.
    """
    digest = hashlib.sha256()
    for number, _, whole in _fields(memoryview(content)):
        if number != METADATA:
            digest.update(whole)
    return digest.hexdigest()


def _read_entries(content: memoryview) -> dict[str, str]:
    entries = {}
    for number, entry, _ in _fields(content):
        if number != METADATA:
            continue
        if len(entry) > LARGEST_ENTRY:
            raise UserError(
                f"found metadata of {len(entry)} bytes, expected at most {LARGEST_ENTRY}"
            )
        texts = {field: str(text, "utf-8") for field, text, _ in _fields(entry)}
        entries[texts.get(KEY, "")] = texts.get(VALUE, "")
    return entries


def _operations(content: memoryview) -> Iterator[str]:
    """Yield the operation of each node of the graph and of the model's functions."""
    for number, part, _ in _fields(content):
        if number not in (GRAPH, FUNCTIONS):
            continue
        nodes = GRAPH_NODES if number == GRAPH else FUNCTION_NODES
        for field, node, _ in _fields(part):
            if field == nodes:
                for name, text, _ in _fields(node):
                    if name == OP_TYPE:
                        yield str(text, "utf-8", "replace")


def _fields(content: memoryview) -> Iterator[Field]:
    """Yield the fields of a message. Raises `ValueError` or `IndexError` where there is none."""
    place, end = 0, len(content)
    while place < end:
        start = place
        key, place = _varint(content, place)
        number, wire_type = key >> 3, key & 7
        begin = place
        if wire_type == VARINT:
            _, place = _varint(content, place)
            begin = place
        elif wire_type == BYTES:
            size, begin = _varint(content, place)
            place = begin + size
        elif wire_type in (EIGHT_BYTES, FOUR_BYTES):
            place += 8 if wire_type == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if place > end:
            raise ValueError("a field beyond the end")
        yield number, content[begin:place], content[start:place]


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Return the number that begins at `place`, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")
