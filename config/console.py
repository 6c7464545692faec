"""How the console looks and what its menu holds. Read by django-unfold as settings.UNFOLD."""

from __future__ import annotations

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

GREEN = {
    "50": "oklch(97.9% .021 166)",
    "100": "oklch(95% .052 163)",
    "200": "oklch(90.5% .093 164)",
    "300": "oklch(84.5% .143 164)",
    "400": "oklch(76.5% .177 163)",
    "500": "oklch(69.6% .17 162)",
    "600": "oklch(56% .13 163)",
    "700": "oklch(50.8% .118 165)",
    "800": "oklch(43.2% .095 166)",
    "900": "oklch(37.8% .077 168)",
    "950": "oklch(26.2% .051 172)",
}
"""600 carries white text at a contrast of 4.5 to 1 and more."""


def _item(title: Any, icon: str, model: str) -> dict[str, Any]:
    """A line of the menu that leads to a model's list."""
    name = f"admin:{model}_changelist"
    return {"title": title, "icon": icon, "link": reverse_lazy(name)}


def _group(title: Any, *items: dict[str, Any], collapsible: bool = False) -> dict[str, Any]:
    return {"title": title, "separator": True, "collapsible": collapsible, "items": list(items)}


NAVIGATION = [
    {
        "title": _("Rented"),
        "items": [
            _item(_("Instances"), "bedtime", "hibernation_instance"),
            _item(_("Snapshots"), "inventory_2", "snapshots_snapshot"),
            _item(_("Policies"), "tune", "hibernation_policy"),
        ],
    },
    _group(
        _("Pool"),
        _item(_("Workers"), "memory", "pool_worker"),
        _item(_("Jobs"), "play_circle", "pool_job"),
        _item(_("Arrays"), "apps", "pool_jobarray"),
        _item(_("Accounts"), "cloud", "pool_account"),
        _item(_("Started sessions"), "rocket_launch", "pool_notebookstart"),
    ),
    _group(
        _("What happened"),
        _item(_("Alerts"), "notifications_active", "core_alert"),
        _item(_("Events"), "history", "core_event"),
        _item(_("Chains"), "sync_alt", "core_chain"),
        _item(_("Dispatches"), "notifications", "pool_dispatch"),
        _item(_("Verdicts"), "rule", "hibernation_verdict"),
        _item(_("Readings"), "monitoring", "pool_sample"),
        _item(_("Sessions"), "timer", "pool_session"),
        _item(_("Boxes"), "deployed_code", "hibernation_box"),
        collapsible=True,
    ),
    _group(
        _("System"),
        _item(_("Users"), "group", "auth_user"),
        _item(_("API tokens"), "key", "core_apitoken"),
        _item(_("Schedules"), "schedule", "hibernation_schedule"),
        _item(_("Banned machines"), "block", "hibernation_machineban"),
        _item(_("Periodic checks"), "autorenew", "django_celery_beat_periodictask"),
        _item(_("Sign-in attempts"), "shield_person", "axes_accessattempt"),
        {"title": _("API documentation"), "icon": "api", "link": reverse_lazy("docs")},
        collapsible=True,
    ),
]

UNFOLD = {
    "SITE_TITLE": "Dormouse",
    "SITE_HEADER": "Dormouse",
    "SITE_SUBHEADER": _("GPUs that sleep when nobody uses them"),
    "SITE_SYMBOL": "bedtime",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("console/icon.svg")}
    ],
    "STYLES": [lambda request: static("console/console.css")],
    "SHOW_LANGUAGES": True,
    "SHOW_HISTORY": True,
    "COLORS": {"primary": GREEN},
    "SIDEBAR": {"show_search": True, "show_all_applications": False, "navigation": NAVIGATION},
}
