"""A double of Kaggle's module of that name for kernels of tests, with the real one's errors.

KAGGLE_DOUBLE names a folder: secrets.json is {label: value}, those that are attached to the notebook, or one of the
words "pushed" (a notebook that was pushed has no right to any), "in trouble" (Kaggle answers 500), "no token" (the kernel
has none) and "offline" (the internet is off). The real client catches urllib's URLError first, of which HTTPError is a
kind: so it raises ConnectionError for every answer that is an error, and never comes to what it has for 401 and 403.
"""

import json
import os
import urllib.error
from email.message import Message
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
        if self._found == "no token":
            raise CredentialError("A JWT Token is required to use Kaggle web client.")

    def get_secret(self, label):
        if not label:
            raise ValidationError("Label must be non-empty.")
        answers = {
            "offline": urllib.error.URLError("Name or service not known"),
            "pushed": urllib.error.HTTPError("https://www.kaggle.com", 403, "Forbidden", Message(), None),
            "in trouble": urllib.error.HTTPError("https://www.kaggle.com", 500, "Oh", Message(), None),
        }
        if isinstance(self._found, str):
            try:
                raise answers[self._found]
            except urllib.error.URLError as error:
                raise ConnectionError("Connection error trying to communicate with service.") from error
        if label not in self._found:
            raise BackendError("Unexpected response from the service. Response: {}.")
        return self._found[label]
