from django.apps import AppConfig


class SnapshotsConfig(AppConfig):
    name = "snapshots"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from snapshots import reasons  # noqa: F401  (registers the sentences)
        from snapshots.services import alerting

        alerting.register()
