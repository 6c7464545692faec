"""As google.colab.userdata."""

import json
import os
from pathlib import Path

from google.colab import errors


class NotebookAccessError(Exception):
    def __init__(self, key):
        super().__init__(f"Notebook does not have access to secret {key}")


class SecretNotFoundError(errors.Error):
    def __init__(self, key):
        super().__init__(f"Secret {key} does not exist.")


class TimeoutException(errors.Error):
    def __init__(self, key):
        super().__init__(
            f"Requesting secret {key} timed out. Secrets can only be fetched when running from the Colab UI."
        )


def get(key):
    found = json.loads((Path(os.environ["COLAB_DOUBLE"]) / "secrets.json").read_text())
    if found == "no answer":
        raise TimeoutException(key)
    if key not in found:
        raise SecretNotFoundError(key)
    if not found[key]["access"]:
        raise NotebookAccessError(key)
    return found[key]["value"]
