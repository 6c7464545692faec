"""Who may know whom."""

import ast
import os
import subprocess
import sys

import pytest

from tests.architecture.source import PACKAGES, ROOT, module_of, python_files, tree

WALK = """
import importlib, pkgutil, sys

class NotInstalled:
    "A machine without the control plane: kombu looks for Django by itself and does without."
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
package = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not found.name.endswith((".__main__", ".metadata_hook")) and ".notebooks" not in found.name:
        importlib.import_module(found.name)
        print(found.name)
"""
CONTROL_PLANE = ("django", "rest_framework", "config", "core", "pool", "hibernation")


@pytest.mark.parametrize("package", ["agent", "gateway", "snapshots.engine"])
def test_what_runs_without_django_loads_where_there_is_none(package):
    # Celery loads Django's settings wherever this variable names some.
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", WALK, package, *CONTROL_PLANE],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()


def test_import_rules_of_pyproject_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_only_celery_and_config_import_tasks():
    """Everybody else rings them by name."""
    guilty = [
        f"{module_of(path)} imports {name}"
        for path in python_files(*PACKAGES)
        if path.name != "tasks.py" and path.relative_to(ROOT).parts[0] != "config"
        for name in imported(path)
        if name.split(".")[0] in PACKAGES and "tasks" in name.split(".")
    ]
    assert guilty == []


def imported(path):
    """Dotted names that a file imports, at any depth."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
