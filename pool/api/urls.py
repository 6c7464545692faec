"""Routes of the pool, below /api/."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from pool.api import (
    agent_files,
    agent_views,
    array_views,
    artifact_views,
    history_views,
    interrogation_views,
    plan_views,
    starts,
    views,
)

router = SimpleRouter(trailing_slash=False)
router.register("workers", views.WorkerViewSet, basename="worker")
router.register("accounts", views.AccountViewSet, basename="account")
router.register("notebook-starts", starts.NotebookStartViewSet, basename="notebook-start")
router.register("jobs", views.JobViewSet, basename="job")
router.register("job-arrays", array_views.JobArrayViewSet, basename="job-array")

urlpatterns = [
    path("agent/enroll", agent_views.EnrollView.as_view()),
    path("agent/token", agent_views.TokenView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/claim", agent_views.ClaimView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/progress", agent_views.ProgressView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/log", agent_views.LogView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/finish", agent_views.FinishView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/files", agent_files.FilesView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/objects", agent_files.ObjectsView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/artifacts", agent_files.ArtifactsView.as_view()),
    path("jobs/<slug:job_id>/artifacts", artifact_views.ArtifactListView.as_view(), name="job-artifacts"),
    path(
        "jobs/<slug:job_id>/artifacts/<path:artifact>",
        artifact_views.ArtifactView.as_view(),
        name="job-artifact",
    ),
    path("agent/dispatch/<slug:dispatch_id>/checkpoint", agent_views.CheckpointView.as_view()),
    path("agent/dispatch/<slug:dispatch_id>/restore", agent_views.RestoreView.as_view()),
    path("pool/usage", history_views.PoolUsageView.as_view(), name="pool-usage"),
    path("workers/<slug:worker_id>/usage", history_views.WorkerUsageView.as_view(), name="worker-usage"),
    path(
        "workers/<slug:worker_id>/samples", history_views.WorkerSamplesView.as_view(), name="worker-samples"
    ),
    path("workers/<slug:worker_id>/interrogate", interrogation_views.InterrogateView.as_view()),
    path("pool/plan", plan_views.PoolPlanView.as_view(), name="pool-plan"),
    path("pool/status", views.PoolStatusView.as_view(), name="pool-status"),
    path("enrollment-tokens", views.EnrollmentTokenView.as_view(), name="enrollment-tokens"),
    path("", include(router.urls)),
]
