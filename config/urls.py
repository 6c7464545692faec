"""Every address of the control plane. The gateway answers /api/agent/status, /api/agent/queue and /i/… itself."""

from django.contrib import admin
from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from config import views

urlpatterns = [
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("agent/", views.agent_index, name="agent-index"),
    path("agent/<str:name>", views.agent_wheel, name="agent-wheel"),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("", admin.site.urls),
]
