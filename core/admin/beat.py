"""Celery beat's rows in the console's look. Ticks are ours (config/schedule.py); `enabled` is the operator's."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django_celery_beat import admin as plain
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from core.admin_base import ConsoleAdmin

for model in (PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(model)


class TaskSelect(UnfoldAdminSelectWidget, plain.TaskSelectWidget):
    pass


class PeriodicTaskForm(plain.PeriodicTaskForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(plain.PeriodicTaskAdmin, ConsoleAdmin):
    form = PeriodicTaskForm


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(ConsoleAdmin):
    pass


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(plain.CrontabScheduleAdmin, ConsoleAdmin):
    pass


@admin.register(SolarSchedule)
class SolarScheduleAdmin(ConsoleAdmin):
    pass


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(ConsoleAdmin):
    pass
