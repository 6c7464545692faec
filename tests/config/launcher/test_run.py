"""The bash file `run`: which Python, when it installs, and what it refuses. In a checkout made of stand-ins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

UV = """#!/usr/bin/env bash
echo "uv $*" >>"$UV_LOG"
case "$1 $2" in
"venv -q") exec {python} -m venv --without-pip .venv ;;
"pip install") exit "${{UV_FAILS:-0}}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the real `run`, two empty locks, and a launcher that says what it was asked for."""
    made = tmp_path / "check out"  # a blank, because people have them
    (made / "config" / "launcher").mkdir(parents=True)
    shutil.copy(settings.CHECKOUT / "run", made / "run")
    (made / "config" / "launcher" / "__main__.py").write_text(
        "import sys; print('launcher', *sys.argv[1:])\n"
    )
    (made / "requirements.txt").write_text("a\n")
    (made / "requirements-dev.txt").write_text("b\n")
    return made


@pytest.fixture
def run(checkout, tmp_path):
    """run(word, …, NAME=value) → the finished process; PATH holds stand-ins before the system's programs."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script(tools / "uv", UV.format(python=sys.executable))
    script(tools / "python3.11", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("python3.12", "python3.13", "python3", "python"):
        script(tools / name, "#!/bin/sh\necho 'no such version' >&2\nexit 127\n")

    def call(*words, **environ):
        env = {
            **{name: value for name, value in os.environ.items() if name != "PYTHON"},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "UV_LOG": str(tmp_path / "uv.log"),
            **environ,
        }
        return subprocess.run(
            [checkout / "run", *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    call.tools = tools
    call.log = lambda: (
        Path(tmp_path / "uv.log").read_text().splitlines() if (tmp_path / "uv.log").exists() else []
    )
    return call


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


def installs(run):
    return [line.split()[-1] for line in run.log() if line.startswith("uv pip install")]


def test_shim_that_exists_and_fails_is_passed_over(run):
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "launcher"


def test_nothing_is_installed_again_while_the_lock_is_the_same(run):
    run()
    assert installs(run) == ["requirements.txt"]
    done = run("manage", "check")
    assert done.stdout == "launcher manage check\n"
    assert installs(run) == ["requirements.txt"]


def test_changed_lock_makes_a_new_environment(run, checkout):
    run()
    (checkout / ".venv" / "left-over").touch()
    (checkout / "requirements.txt").write_text("a, newer\n")
    assert run().returncode == 0
    assert installs(run) == ["requirements.txt"] * 2
    assert not (checkout / ".venv" / "left-over").exists()


def test_install_that_was_cut_short_is_done_again_from_the_start(run, checkout):
    failed = run(UV_FAILS="1")
    assert failed.returncode == 1
    assert "Installing requirements.txt failed" in failed.stderr
    (checkout / ".venv" / "half").touch()
    assert run().returncode == 0
    assert not (checkout / ".venv" / "half").exists()


def test_tests_add_their_packages_to_the_same_environment(run, checkout):
    run()
    (checkout / ".venv" / "kept").touch()
    assert run("test", "-k", "name").stdout.splitlines()[-1] == "launcher test -k name"
    assert installs(run) == ["requirements.txt", "requirements-dev.txt"]
    assert (checkout / ".venv" / "kept").exists()


def test_every_package_is_checked_by_its_hash(run):
    run()
    assert all("--require-hashes" in line for line in run.log() if line.startswith("uv pip install"))


def test_help_and_unknown_words_install_nothing(run):
    assert run("help").stdout == "launcher help\n"
    assert run("bogus", "word").stdout == "launcher bogus word\n"
    assert run.log() == []


def test_machine_without_a_python_that_fits_is_told_what_to_do(run):
    script(run.tools / "python3.11", "#!/bin/sh\nexit 1\n")
    done = run()
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13" in done.stderr
    assert "PYTHON=" in done.stderr


def test_named_python_is_tried_first(run):
    script(run.tools / "python3.11", "#!/bin/sh\nexit 1\n")
    assert run(PYTHON=sys.executable).returncode == 0


def test_word_that_nobody_knows_is_exit_2_with_the_help(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "config.launcher", "bogus"],
        cwd=settings.CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "./run test" in done.stderr
