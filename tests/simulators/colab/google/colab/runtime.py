"""As google.colab.runtime."""

import os
from pathlib import Path

from google.colab import errors


def unassign():
    folder = Path(os.environ["COLAB_DOUBLE"])
    if (folder / "refuses").exists():
        raise errors.RuntimeManagementError("Unable to request VM unassignment.")
    with (folder / "unassigned").open("a") as file:
        file.write("unassigned\n")
