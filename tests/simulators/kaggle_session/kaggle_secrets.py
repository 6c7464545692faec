"""A double of Kaggle's module of that name for kernels of tests, with the real one's errors.

KAGGLE_DOUBLE names a folder: secrets.json is {label: value}, those that are attached to the notebook, or one of the
words "pushed" (a notebook that was pushed has no right to any) and "offline" (the internet is off).
"""

import json
import os
from pathlib import Path


class CredentialError(Exception):
    pass


class BackendError(Exception):
    pass


class ValidationError(Exception):
    pass


class UserSecretsClient:
    def __init__(self):
        self._found = json.loads((Path(os.environ["KAGGLE_DOUBLE"]) / "secrets.json").read_text())
        if self._found == "pushed":
            raise CredentialError("A JWT Token is required to use the UserSecretsClient")

    def get_secret(self, label):
        if not label:
            raise ValidationError("Label must be non-empty.")
        if self._found == "offline":
            raise ConnectionError("Connection error trying to communicate with service.")
        if label not in self._found:
            raise BackendError("Unexpected response from the service. Response: {}.")
        return self._found[label]
