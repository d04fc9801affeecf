"""How the modules hang together."""

from graphlib import TopologicalSorter

from tests.conftest import imports_of, repository_modules


def test_no_module_needs_itself():
    modules = repository_modules()
    order = list(TopologicalSorter({name: imports_of(path, modules) for name, path in modules.items()}).static_order())
    assert sorted(order) == sorted(modules)
