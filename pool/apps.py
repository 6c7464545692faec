from django.apps import AppConfig


class PoolConfig(AppConfig):
    name = "pool"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from core import agents
        from pool import plan_reasons, provider_reasons, reasons  # noqa: F401  their codes are worded in every process
        from pool.services import enrollment

        agents.register_gate(enrollment.gate)
