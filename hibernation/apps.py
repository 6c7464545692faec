from django.apps import AppConfig


class HibernationConfig(AppConfig):
    name = "hibernation"
    default_auto_field = "django.db.models.BigAutoField"
