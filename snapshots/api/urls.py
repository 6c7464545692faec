"""Routes of snapshots, below /api/."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from snapshots.api import agent_views, views

router = SimpleRouter(trailing_slash=False)
router.register("snapshots", views.SnapshotViewSet, basename="snapshot")

urlpatterns = [
    path("agent/snapshots/<slug:snapshot_id>/plan", agent_views.PlanView.as_view()),
    path("agent/snapshots/<slug:snapshot_id>/commit", agent_views.CommitView.as_view()),
    path("agent/snapshots/<slug:snapshot_id>/restore-plan", agent_views.RestorePlanView.as_view()),
    path("", include(router.urls)),
]
