from django.apps import AppConfig


class HibernationConfig(AppConfig):
    name = "hibernation"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from hibernation import chains, reasons, reasons_alerts, reasons_chains, receivers  # noqa: F401  worded in every process
        from hibernation.services import alerting, instances
        from snapshots.services import deleting

        receivers.connect()
        alerting.register()
        deleting.register_use(instances.snapshot_needed)
