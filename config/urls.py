"""Every address of the control plane. The gateway answers /api/agent/status, /api/agent/queue and /i/… itself."""

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from config import views
from config.notebooks import NotebookView
from snapshots.api.store_view import store_object

handler404 = "config.views.not_found"
handler500 = "config.views.server_error"

# The admin stands at the root; its own answer to every unknown address would be a page to sign in.
admin.site.final_catch_all_view = False

urlpatterns = [
    path("favicon.ico", RedirectView.as_view(url=f"{settings.STATIC_URL}console/icon.svg")),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("agent/", views.agent_index, name="agent-index"),
    path("agent/notebooks/<slug:name>.ipynb", NotebookView.as_view(), name="agent-notebook"),
    path("agent/<str:name>", views.agent_wheel, name="agent-wheel"),
    path("i18n/", include("django.conf.urls.i18n")),  # the language chooser of the console
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    # A page for people, who sign in on the console's own page; a program has the schema.
    path("api/docs/", login_required(SpectacularSwaggerSplitView.as_view(url_name="schema")), name="docs"),
    path("api/", include("core.alerts.urls")),
    path("api/", include("pool.api.urls")),
    path("api/", include("hibernation.api.urls")),
    path("api/", include("snapshots.api.urls")),
    path("store/<path:key>", store_object, name="store"),
    path("", admin.site.urls),
]
