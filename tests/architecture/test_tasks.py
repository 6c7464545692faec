"""Celery tasks go by name; a name that nobody answers to would be a bell without a door."""

import ast
import importlib

import pytest

from config.celery import app
from config.schedule import TICKS
from tests.architecture.source import PACKAGES, module_of, python_files, tree


@pytest.fixture(scope="module")
def registered():
    app.loader.import_default_modules()
    return set(app.tasks)


@pytest.mark.parametrize("tick", TICKS, ids=lambda tick: tick.task)
def test_every_tick_of_the_schedule_is_a_task(registered, tick):
    assert tick.task in registered


def test_every_name_that_is_rung_is_a_task(registered):
    rung = {
        (name, module_of(path))
        for path in python_files(*PACKAGES)
        for name in names_rung(path)
    }  # fmt: skip
    assert rung
    assert [f"{where} rings {name}" for name, where in sorted(rung) if name not in registered] == []


def names_rung(path):
    """What is passed first to `ring`, written out or by a constant of the module. Anything else fails here:
    a name that is put together at run time cannot be checked."""
    for node in ast.walk(tree(path)):
        if not (
            isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "ring"
        ):
            continue
        first = node.args[0]
        if isinstance(first, ast.Constant):
            yield first.value
        else:
            module = importlib.import_module(module_of(path))
            yield eval(ast.unparse(first), vars(module))  # a name or an attribute of that module


def test_tasks_of_this_project_have_a_docstring_that_says_how_often(registered):
    ours = [app.tasks[name] for name in registered if name.split(".")[0] in PACKAGES]
    assert ours
    assert [task.name for task in ours if not (task.run.__doc__ or "").strip()] == []
