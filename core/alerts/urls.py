"""Routes of alerts, below /api/."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from core.alerts import api

router = SimpleRouter(trailing_slash=False)
router.register("alerts", api.AlertViewSet, basename="alert")

urlpatterns = [
    path("alerts/preferences", api.PreferenceView.as_view(), name="alert-preferences"),
    path("", include(router.urls)),
]
