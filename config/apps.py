from django.apps import AppConfig


class ConfigConfig(AppConfig):
    """The top of the import order: it may know every app, and wires them to Celery and to the system checks."""

    name = "config"

    def ready(self) -> None:
        from config import celery, checks  # noqa: F401  registers the app that @shared_task uses, and our checks
