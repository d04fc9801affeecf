"""How the modules hang together: packages on floors, and no module that needs itself."""

from graphlib import TopologicalSorter

from tests.conftest import imports_of, repository_modules

COMMANDS = ("trainer", "inference_pytorch", "inference_onnx", "export_onnx_fullimage", "prepare_dataset")
FLOORS = (  # a package, or a module on top, imports only what stands before it, and its own modules
    *("common", "gaussian", "loss", "ops", "data", "model", "dataloader", "evaluation", "arguments", "reporting", "training"),
    *("deploy", "commands", "benchmarks"),
)


def floor_of(module: str) -> int:
    package = module.split(".")[0]
    return FLOORS.index("commands" if package in COMMANDS else package)


def test_every_module_stands_on_a_floor_and_imports_only_from_below():
    modules = repository_modules()
    assert {floor_of(module) for module in modules} == set(range(len(FLOORS)))
    upwards = [
        f"{module} -> {other}"
        for module, path in modules.items()
        for other in imports_of(path, modules)
        if floor_of(other) > floor_of(module)
    ]
    assert not upwards


def test_no_module_needs_itself():
    modules = repository_modules()
    order = list(TopologicalSorter({name: imports_of(path, modules) for name, path in modules.items()}).static_order())
    assert sorted(order) == sorted(modules)


def test_no_module_changes_where_modules_are_found():
    assert not [name for name, path in repository_modules().items() if "sys.path" in path.read_text()]
