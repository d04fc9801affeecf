"""How the modules hang together."""

from graphlib import TopologicalSorter

from docs.draw_architecture import PICTURE, draw, package_imports, split_by_order, without_detours
from tests.conftest import imports_of, repository_modules


def test_no_module_needs_itself():
    modules = repository_modules()
    order = list(TopologicalSorter({name: imports_of(path, modules) for name, path in modules.items()}).static_order())
    assert sorted(order) == sorted(modules)


def test_the_picture_shows_the_imports_of_today():
    drawn = PICTURE.read_text(encoding="utf-8")
    assert drawn == draw(package_imports()), "run python -m docs.draw_architecture"


def test_arrows_leave_out_what_others_lead_to_and_show_what_is_against_the_order():
    imports = {"ops": {"model"}, "data": {"ops"}, "model": {"ops", "data"}}
    allowed, against = split_by_order(imports)
    assert against == {"ops": {"model"}, "data": set(), "model": set()}
    assert without_detours(allowed) == {"ops": set(), "data": {"ops"}, "model": {"data"}}
