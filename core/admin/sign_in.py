"""Who tried to sign in, in the console's look. Deleting a row of failed attempts lets that person try again."""

from __future__ import annotations

from axes import admin as plain
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin

from core.admin_base import ConsoleAdmin

for model in (AccessAttempt, AccessLog, AccessFailureLog):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


@admin.register(AccessAttempt)
class AccessAttemptAdmin(plain.AccessAttemptAdmin, ConsoleAdmin):
    pass


@admin.register(AccessLog)
class AccessLogAdmin(plain.AccessLogAdmin, ConsoleAdmin):
    pass


@admin.register(AccessFailureLog)
class AccessFailureLogAdmin(plain.AccessFailureLogAdmin, ConsoleAdmin):
    pass
