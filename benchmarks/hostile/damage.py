"""Damage of files, drawn at random: bytes, the tags of a TIFF, values of a checkpoint, a graph."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

# limits, kinds that do not belong, and texts that mean something to a path, a shell or a parser
EXTREMES = (0, 1, 2, 255, 60_000, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
HOSTILE_VALUES = (
    None,
    True,
    -1,
    0,
    2**31,
    10**30,
    0.5,
    -1e300,
    float("nan"),
    float("inf"),
    "",
    "/../../../../outside",
    "../../../../outside",
    "\0",
    "none",
    "x" * 5000,
    "9" * 401,
    b"bytes",
    [],
    [1, 2],
    ["a"] * 3,
    {},
    {"a": {"b": []}},
    torch.zeros(0),
    torch.full((3,), float("nan")),
    torch.zeros(2, 3, dtype=torch.complex64),
)


def damage_bytes(content: bytes, generator: np.random.Generator) -> bytes:
    """Flip bits, overwrite, remove, repeat or cut off a part of a file."""
    changed = bytearray(content)
    if not changed:
        return content
    for _ in range(int(generator.choice([1, 1, 1, 3, 30]))):
        place = int(generator.integers(len(changed)))
        if generator.random() < 0.4:  # headers are at the beginning
            place = min(place, int(generator.integers(512)))
        size = int(generator.choice([1, 4, 64, 1000]))
        part = slice(place, place + size)
        way = generator.integers(6)
        if way == 0:
            changed[place] ^= 1 << int(generator.integers(8))
        elif way == 1:
            changed[part] = generator.bytes(len(changed[part]))
        elif way == 2:
            changed[part] = bytes([int(generator.choice([0, 255]))]) * len(changed[part])
        elif way == 3:
            del changed[part]
        elif way == 4:
            changed[part] = changed[part] * 3
        elif way == 5 and generator.random() < 0.5:
            del changed[place:]
        if not changed:
            break
    return bytes(changed)


def damage_tags(content: bytes, generator: np.random.Generator) -> bytes:
    """Overwrite type, count or value of some entries in the first directory of a classic TIFF."""
    changed, order = bytearray(content), "<" if content[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", changed, 4)
    if directory + 2 > len(changed):
        return damage_bytes(content, generator)
    (count,) = struct.unpack_from(f"{order}H", changed, directory)
    for _ in range(int(generator.integers(1, 4))):
        entry = directory + 2 + 12 * int(generator.integers(count))
        offset, form = [(2, "H"), (4, "I"), (8, "I"), (8, "H")][int(generator.integers(4))]
        most = 2 ** (8 * struct.calcsize(form))
        value = int(generator.choice(EXTREMES)) if generator.random() < 0.7 else generator.bytes(4)
        value = int.from_bytes(value, "little") if isinstance(value, bytes) else value
        if entry + 12 <= len(changed):
            struct.pack_into(f"{order}{form}", changed, entry + offset, value % most)
    return bytes(changed)


def damage_content(content: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Replace one to three values of a checkpoint, at any depth, or leave them out."""
    changed = dict(content)
    for _ in range(int(generator.integers(1, 4))):
        place: Any = changed
        while True:
            keys = list(place)
            key = keys[int(generator.integers(len(keys)))]
            if not isinstance(place[key], dict) or not place[key] or generator.random() < 0.3:
                break
            place[key] = dict(place[key])
            place = place[key]
        _replace(place, key, generator)
    return changed


def damage_setting(content: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Replace one value of a checkpoint by a hostile one."""
    keys = [key for key in content if key != "model_state_dict"]
    key = keys[int(generator.integers(len(keys)))]
    return content | {key: HOSTILE_VALUES[int(generator.integers(len(HOSTILE_VALUES)))]}


def _replace(place: dict[str, Any], key: Any, generator: np.random.Generator) -> None:
    value = place[key]
    if isinstance(value, torch.Tensor) and value.numel() and generator.random() < 0.7:
        ways: list[Callable[[], torch.Tensor]] = [
            lambda: value.flatten()[:1],
            lambda: value.to(torch.float64),
            lambda: value * float("nan"),
            lambda: value.flatten()[:1].expand(10_000, 10_000),
            lambda: torch.zeros((), device="meta").expand(value.shape),
            lambda: value.to_sparse(),
            lambda: value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value,
        ]
        place[key] = ways[int(generator.integers(len(ways)))]()
    elif generator.random() < 0.2:
        del place[key]
    else:
        place[key] = HOSTILE_VALUES[int(generator.integers(len(HOSTILE_VALUES)))]


def damage_model(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    """Change metadata, nodes, weights or declared shapes of an ONNX file, in place."""
    graph, nodes = model.graph, model.graph.node
    for _ in range(int(generator.integers(1, 4))):
        node = nodes[int(generator.integers(len(nodes)))] if len(nodes) else None
        way = int(generator.integers(9))
        if way <= 2 and len(model.metadata_props):
            entry = model.metadata_props[int(generator.integers(len(model.metadata_props)))]
            texts = ("", "[" * 50_000, '{"a": NaN}', "9" * 5000, "null", "-1 1e999", "x" * 10**6)
            entry.value = texts[int(generator.integers(len(texts)))]
        elif way == 3 and node:
            node.op_type = str(generator.choice(["Loop", "If", "Tile", "Relu", "Identity", "No"]))
        elif way == 4 and node:
            nodes.remove(node)
        elif way == 5 and node and len(node.input):
            node.input[0] = str(generator.choice(["", "input", node.output[0]]))
        elif way == 6 and len(graph.initializer):
            tensor = graph.initializer[int(generator.integers(len(graph.initializer)))]
            if len(tensor.dims):
                tensor.dims[0] = int(generator.choice([0, -1, 1, 2**31, 2**40]))
        elif way == 7:
            value = generator.choice([graph.input[0], graph.output[0]]) if graph.output else None
            if value is not None and value.type.tensor_type.shape.dim:
                side = value.type.tensor_type.shape.dim[-1]
                side.dim_value = int(generator.choice([0, 1, 127, 2**31, 2**40]))
        elif way == 8:
            del graph.output[:]
