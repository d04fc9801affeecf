"""Draw the packages and what imports what, from the code: docs/pictures/architecture.svg.

python -m docs.draw_architecture
"""

import ast
import subprocess
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
COMMANDS = (
    "trainer",
    "inference_pytorch",
    "inference_onnx",
    "export_onnx_fullimage",
    "prepare_dataset",
)
NOT_DRAWN = ("tests/", "docs/", "deploy/cpp/")
MARGIN = 20  # pixels around the whole picture
UNIT = 124  # pixels for 1 of a box's left and right
FLOOR_HEIGHT = 92  # pixels from the top of one floor to the top of the next
BOX_HEIGHT = 54  # pixels


class Box(NamedTuple):
    """A package: its floor, 0 at the bottom, its edges in units from the left, and a few words."""

    floor: int
    left: float
    right: float
    holds: str

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


# In the order of imports: a package imports only those that stand before it.
# No box lies on the straight way down from another one to what that one imports.
PACKAGES = {
    "common": Box(0, 3.4, 7.3, "errors, files, processes, signals"),
    "gaussian": Box(0, 1.6, 3.2, "how a point is painted"),
    "loss": Box(0, 0, 1.4, "focal loss"),
    "ops": Box(1, 3.4, 7.3, "torch operations of training and ONNX graph alike"),
    "data": Box(2, 1.6, 5.2, "strips on disk, samples, splits"),
    "model": Box(2, 5.4, 7.3, "the networks"),
    "dataloader": Box(3, 1.6, 3.0, "strips to batches"),
    "evaluation": Box(3, 3.2, 7.3, "predictions, detections, metrics, thresholds"),
    "arguments": Box(4, 4.6, 5.8, "shared flags"),
    "reporting": Box(4, 3.2, 4.4, "tables and report"),
    "training": Box(5, 0, 3.1, "one run: steps, checkpoints, resume"),
    "deploy": Box(5, 6.0, 7.3, "ONNX files, sessions"),
    "autoencoder": Box(6, 1.45, 2.95, "the reference-free detector"),
    "classifier": Box(6, 0, 1.3, "kinds of defect, review"),
    "commands": Box(6, 3.25, 7.3, ", ".join(COMMANDS)),
    "scale": Box(7, 3.25, 7.3, "archives, searches, several machines"),
    "benchmarks": Box(8, 0, 7.3, "what the tables of the documents are made with"),
}

STYLE = """
text { font-family: "DejaVu Sans", Verdana, sans-serif; text-anchor: middle; fill: #1a1a1a }
.name { font-size: 15px; font-weight: bold }
.holds { font-size: 11.5px; fill: #444 }
rect { fill: #eef3fa; stroke: #4a6fa5; stroke-width: 1.4 }
line { stroke: #333; stroke-width: 1.5; marker-end: url(#down) }
.against { stroke: #c22; stroke-dasharray: 5 4; marker-end: url(#up) }
"""


def package_of(module: str) -> str:
    """The package of a dotted module name; the five commands are one."""
    first = module.split(".")[0]
    return "commands" if first in COMMANDS else first


def repository_modules() -> dict[str, Path]:
    """Every module of the repository, by its dotted name, but those of tests and documents."""
    words = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "*.py"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [Path(name) for name in sorted(listed) if not name.startswith(NOT_DRAWN)]
    modules = {".".join(path.with_suffix("").parts): ROOT / path for path in paths}
    return {
        name: path
        for name, path in modules.items()
        if path.is_file() and path.name != "__init__.py"
    }


def imports_of(path: Path, modules: Iterable[str]) -> set[str]:
    """Those of `modules`, dotted names, that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(modules)


def package_imports() -> dict[str, set[str]]:
    """Each package with the other packages that its modules import, in the order of PACKAGES.

    Raises `ValueError` for a package that has no place in PACKAGES.
    """
    modules = repository_modules()
    if unknown := set(map(package_of, modules)) - PACKAGES.keys():
        names = ", ".join(sorted(unknown))
        raise ValueError(f"found no place for {names}, expected one in PACKAGES")
    imports: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for module, path in modules.items():
        owner = package_of(module)
        imports[owner] |= set(map(package_of, imports_of(path, modules))) - {owner}
    return imports


def split_by_order(imports: dict[str, set[str]]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Imports of packages that stand before, and imports against that order."""
    allowed: dict[str, set[str]] = {}
    for name, found in imports.items():
        allowed[name] = found & allowed.keys()
    return allowed, {name: found - allowed[name] for name, found in imports.items()}


def without_detours(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The transitive reduction: no arrow to what another arrow already leads to."""
    reached: dict[str, set[str]] = {}
    direct: dict[str, set[str]] = {}
    for name, found in imports.items():
        beyond = set().union(*(reached[other] for other in found))
        reached[name] = found | beyond
        direct[name] = found - beyond
    return direct


def draw(imports: dict[str, set[str]]) -> str:
    """The picture as SVG text."""
    width = round(2 * MARGIN + UNIT * max(box.right for box in PACKAGES.values()))
    height = 2 * MARGIN + BOX_HEIGHT + FLOOR_HEIGHT * max(box.floor for box in PACKAGES.values())
    allowed, against = split_by_order(imports)
    arrows = [
        *_arrows(without_detours(allowed), height, share=0.5, kind=""),
        *_arrows(against, height, share=0.25, kind=' class="against"'),
    ]
    size = f'width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>',
        f"<style>{STYLE}</style>",
        f"<defs>{_arrow_head('down', '#333')}{_arrow_head('up', '#c22')}</defs>",
        f'<rect {size} style="fill: #fff; stroke: none"/>',
        *arrows,
        *(line for name, box in PACKAGES.items() for line in _draw_box(name, box, height)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _arrow_head(name: str, color: str) -> str:
    shape = f'<path d="M 0 0 L 9 4.5 L 0 9 z" fill="{color}"/>'
    size = 'markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse"'
    return f'<marker id="{name}" orient="auto" refX="9" refY="4.5" {size}>{shape}</marker>'


def _arrows(imports: dict[str, set[str]], height: int, share: float, kind: str) -> Iterator[str]:
    """Lines from each package to what it imports, at that share of the width that both have."""
    for name, found in imports.items():
        for other in sorted(found):
            x1, y1, x2, y2 = _ends(PACKAGES[name], PACKAGES[other], height, share)
            yield f'<line{kind} x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _ends(source: Box, target: Box, height: int, share: float) -> tuple[int, int, int, int]:
    """Where an arrow begins and ends, as x, y, x, y in pixels."""
    if source.floor == target.floor:
        y = _top(source, height) + BOX_HEIGHT // 2
        if target.left < source.left:
            return _across(source.left), y, _across(target.right), y
        return _across(source.right), y, _across(target.left), y
    below = source.floor > target.floor
    y1 = _top(source, height) + BOX_HEIGHT * below
    y2 = _top(target, height) + BOX_HEIGHT * (not below)
    left, right = max(source.left, target.left), min(source.right, target.right)
    if left < right:
        x = _across(left + share * (right - left))
        return x, y1, x, y2
    return _across(source.middle), y1, _across(target.middle), y2


def _draw_box(name: str, box: Box, height: int) -> Iterator[str]:
    left, right, top = _across(box.left), _across(box.right), _top(box, height)
    middle = (left + right) // 2
    yield f'<rect x="{left}" y="{top}" width="{right - left}" height="{BOX_HEIGHT}" rx="5"/>'
    yield f'<text class="name" x="{middle}" y="{top + 23}">{escape(name)}</text>'
    yield f'<text class="holds" x="{middle}" y="{top + 42}">{escape(box.holds)}</text>'


def _across(units: float) -> int:
    return round(MARGIN + UNIT * units)


def _top(box: Box, height: int) -> int:
    return height - MARGIN - BOX_HEIGHT - FLOOR_HEIGHT * box.floor


def main() -> None:
    PICTURE.write_text(draw(package_imports()), encoding="utf-8")
    print(f"the picture is in {PICTURE}")


if __name__ == "__main__":
    main()
