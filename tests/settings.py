"""The settings of the test run: the real ones, in a data folder that is made for it and thrown away.

pytest-django reads the settings before any conftest.py, so the environment is prepared here. Child processes of
tests inherit it; they run with `config.settings`.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

if not WORKER:
    folder = tempfile.mkdtemp(prefix="dormouse-tests-")
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    os.environ["DORMOUSE_TESTS_FOLDER"] = folder

FOLDER = Path(os.environ["DORMOUSE_TESTS_FOLDER"])

for name in list(os.environ):
    if name.startswith(("DORMOUSE_", "SNAPSHOT_")) and name != "DORMOUSE_TESTS_FOLDER":
        del os.environ[name]
for name in ("REDIS_URL", "DEBUG", "LOG_FORMAT"):
    os.environ.pop(name, None)

# Dozens of processes import the same modules; compiling them anew in each takes longer than their tests do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

os.environ["DORMOUSE_DATA_DIR"] = str(FOLDER / (WORKER or "data"))

from config.settings import *  # noqa: E402, F403
from config.settings import DATA_DIR, DATABASES, ENV, STATIC_ROOT, STORAGES  # noqa: E402

STATIC_ROOT.mkdir(parents=True, exist_ok=True)
if ENV.postgres is None:
    # A file, because that is what runs; an in-memory database locks whole tables between threads.
    DATABASES["default"]["TEST"] = {"NAME": DATA_DIR / "test.sqlite3"}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast; no test is about its strength
STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
