"""How the modules depend on each other: packages in an order of imports, and no cycles."""

from graphlib import TopologicalSorter

from docs.draw_architecture import (
    PACKAGES,
    PICTURE,
    draw,
    imports_of,
    package_imports,
    package_of,
    repository_modules,
    split_by_order,
    without_detours,
)


def test_a_module_imports_only_packages_that_stand_before_its_own():
    modules, order = repository_modules(), list(PACKAGES)
    found = {name: imports_of(path, modules) for name, path in modules.items()}
    assert {package_of(module) for module in modules} == set(order)
    place = {module: order.index(package_of(module)) for module in modules}
    assert not [
        f"{name} -> {other}"
        for name, others in found.items()
        for other in others
        if place[other] > place[name]
    ]


def test_no_module_needs_itself():
    modules = repository_modules()
    order = list(
        TopologicalSorter(
            {name: imports_of(path, modules) for name, path in modules.items()}
        ).static_order()
    )
    assert sorted(order) == sorted(modules)


def test_the_training_loop_knows_no_tool():
    modules = repository_modules()
    loop = {
        "training.loop",
        "training.run_reporter",
        "training.task",
        "training.settings",
        "training.selection",
        "training.resume",
        "training.run_folder",
    }
    tool = {name for name in modules if name.startswith("training.strip_")} | {
        "training.distillation",
        "model",
        "loss",
        "gaussian",
    }
    assert not [
        f"{name} -> {other}" for name in loop for other in imports_of(modules[name], modules) & tool
    ]


# of a command in a folder, which may be started as a file, too
AS_A_FILE = "sys.path.insert(0, str(Path(__file__).resolve().parent.parent))"


def test_no_module_changes_where_modules_are_found_but_to_be_started_as_a_file():
    for name, path in repository_modules().items():
        text = path.read_text()
        expected = text.count(AS_A_FILE) if name.startswith("classifier.") else 0
        assert text.count("sys.path") == expected <= 1, name
        assert not expected or text.split(AS_A_FILE)[0].count("if not __package__:") == 1, name


def test_the_picture_shows_the_imports_of_today():
    drawn = PICTURE.read_text(encoding="utf-8")
    assert drawn == draw(package_imports()), "run python -m docs.draw_architecture"


def test_arrows_leave_out_what_others_lead_to_and_show_what_is_against_the_order():
    imports = {"ops": {"model"}, "data": {"ops"}, "model": {"ops", "data"}}
    allowed, against = split_by_order(imports)
    assert against == {"ops": {"model"}, "data": set(), "model": set()}
    assert without_detours(allowed) == {"ops": set(), "data": {"ops"}, "model": {"data"}}
