"""Routes of instances and money, below /api/."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from hibernation.api import views

router = SimpleRouter(trailing_slash=False)
router.register("instances", views.InstanceViewSet, basename="instance")

urlpatterns = [
    path("savings", views.SavingsView.as_view(), name="savings"),
    path("", include(router.urls)),
]
