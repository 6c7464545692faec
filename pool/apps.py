from django.apps import AppConfig


class PoolConfig(AppConfig):
    name = "pool"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core import agents
        from pool import (  # noqa: F401  their codes are worded in every process
            chains,
            plan_reasons,
            provider_reasons,
            reasons,
            reasons_alerts,
            receivers,
        )
        from pool.services import alerting, checkpoints, enrollment
        from snapshots.services import deleting

        agents.register_gate(enrollment.gate)
        alerting.register()
        receivers.connect()
        deleting.register_use(checkpoints.checkpoint_needed)
