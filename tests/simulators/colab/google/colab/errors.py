"""As google.colab.errors."""


class Error(Exception):
    pass


class RuntimeManagementError(Error):
    pass
