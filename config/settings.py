"""Django's settings: flat, every value with its unit. What may differ between installations is read in `config.env`."""

import os
from datetime import timedelta

from django.utils.translation import gettext_lazy as _

from config.console import UNFOLD  # noqa: F401  a setting of django-unfold
from config.env import broker_url, env_read
from config.logs import logging_config
from config.paths import CHECKOUT

ENV = env_read(os.environ)
VERSION = "0.1.0"

# -- what the rest of the code reads ---------------------------------------------------------------

DATA_DIR = ENV.data_dir
RUN_DIR = ENV.run_dir
PUBLIC_URL = ENV.public_url
REDIS_URL = ENV.redis_url
BROKER_URL = broker_url(ENV.redis_url)
SNAPSHOT_STORE = ENV.snapshot_store
SNAPSHOT_S3 = vars(ENV.snapshot_s3) if ENV.snapshot_s3 else {}
FIELD_KEYS = ENV.secrets.field_keys
AGENT_KEYS = ENV.secrets.agent_keys
STORE_SIGNING_KEY = ENV.secrets.store_signing_key
CHAIN_LEASE_S = ENV.chain_lease_s
AGENT_TRANSPORT = ENV.agent_transport
KAGGLE_API_URL = ENV.kaggle_url
DEMO = ENV.demo
TRUSTED_PROXIES = ENV.trusted_proxies

HEALTH_PLACES = ENV.health_places
PRIVATE_NETWORKS = ENV.private_networks
PROVIDER_OPTIONS = {"vast": {"url": ENV.vast_url, "image": ENV.vast_image}}
"""Account kind → what its provider alone understands; empty: the provider's own default."""

AGENT_WHEEL = "config.wheel.agent_wheel"
"""Who knows which agent rented boxes install."""

DEAD_MAN_MINUTES = ENV.dead_man_minutes
"""How long a box whose work is saved waits for a silent control plane before it destroys itself; 0: for ever."""

CHECKPOINT_KEEP_DAYS = ENV.checkpoint_keep_days
"""How long the last checkpoint of a job is kept after the job has ended."""

BEAT_LEASE_S = ENV.beat_lease_s
"""How long a beat leads without a sign of life; a killed one is replaced within this and one look (2 s)."""

# -- Django ----------------------------------------------------------------------------------------

DEBUG = ENV.debug
SECRET_KEY = ENV.secrets.secret_key
ALLOWED_HOSTS = sorted({ENV.public_host, "127.0.0.1", "localhost", "[::1]"})
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    # Ours stand before unfold: an admin/index.html of an app behind it is never found.
    "core",
    "pool",
    "snapshots",
    "hibernation",
    "config",
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "django_celery_beat",
    "axes",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "config.middleware.ContentSecurityPolicy",
    "config.middleware.RefuseNul",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",  # last, as its documentation asks
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# -- database --------------------------------------------------------------------------------------

if ENV.postgres:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": ENV.postgres.name,
            "USER": ENV.postgres.user,
            "PASSWORD": ENV.postgres.password,
            "HOST": ENV.postgres.host,
            "PORT": ENV.postgres.port,
            "OPTIONS": dict(ENV.postgres.options),
            "CONN_MAX_AGE": None,
            "CONN_HEALTH_CHECKS": True,
        }
    }
else:
    # docs/adr/0005-sqlite-settings.md has the measurements behind each of these.
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "dormouse.sqlite3",
            "OPTIONS": {
                "timeout": 10,  # seconds that a writer waits for another
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
            },
            "CONN_MAX_AGE": None,
        }
    }
# IMMEDIATE takes SQLite's write lock for every transaction, so a request must not be one.
DATABASES["default"]["ATOMIC_REQUESTS"] = False

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "dormouse:cache",
        # Seconds. A black-holed address must not hang a request.
        "OPTIONS": {"socket_connect_timeout": 2, "socket_timeout": 5},
    }
}

# -- people signing in -----------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
SESSION_COOKIE_AGE = 14 * 24 * 3600  # seconds
# Cookies do not tell ports apart: with Django's names two programs on localhost sign each other's users out.
SESSION_COOKIE_NAME = "dormouse_session"
CSRF_COOKIE_NAME = "dormouse_csrftoken"
LANGUAGE_COOKIE_NAME = "dormouse_language"

AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
# The pair, so that a stranger cannot lock a person out by guessing at that person's name.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "config.client.client_address"
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False

# -- the way in: browser → gateway (→ TLS proxy before it) → unix socket → Django --------------------

# Only the gateway can write to Django's socket, and it sets this header itself, from trusted proxies only.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
USE_X_FORWARDED_HOST = False
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = ENV.https
SECURE_SSL_REDIRECT = ENV.https
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # asked from inside, without TLS
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if ENV.https else 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# W005 and W021 ask to bind all subdomains and the browsers' preload list: we own a host, not its whole domain.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# Bytes. A job with all that it may bring (pool.services.job_spec: 1 MiB of files in base64, and script, arguments and
# environment of 256 KiB each) fits also where half of its text is escaped in JSON. Agents' messages are far smaller.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

# -- API -------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "core.api.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core.api.JsonParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "core.api.Pagination",
    "PAGE_SIZE": 50,
    "EXCEPTION_HANDLER": "core.api.exception_handler",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": ["core.throttles.ScopedThrottle"],
    # A view names its scope in throttle_scope. These spare the machine; they are no security boundary (not atomic).
    "DEFAULT_THROTTLE_RATES": {"enroll": "10/min", "token": "30/min", "agent": "120/min", "api": "600/min"},
    # The gateway is the one proxy that Django sees; without this number clients choose their own address.
    "NUM_PROXIES": 1,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Dormouse",
    "DESCRIPTION": "One pool for borrowed and rented GPUs.",
    "VERSION": VERSION,
    "SCHEMA_PATH_PREFIX": r"/api/",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {"AlertSeverityEnum": "core.models.Alert.SEVERITIES"},
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "pool.api.gateway_schema.add_gateway_routes",
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# -- what jobs leave -------------------------------------------------------------------------------

JOB_ARTIFACTS_AT_MOST = ENV.jobs.artifacts_at_most  # of one attempt
JOB_ARTIFACT_BYTES = ENV.jobs.artifact_bytes  # of one file
JOB_ARTIFACTS_BYTES = ENV.jobs.artifacts_bytes  # of one attempt
JOB_LOG_BYTES = ENV.jobs.log_bytes  # of one attempt; more is cut out of its middle
JOB_FILES_DAYS = ENV.jobs.files_days  # after an attempt's end; 0: for ever
EVENTS_DAYS = ENV.jobs.events_days  # of workers, accounts and alerts; 0: for ever

# -- alerts ----------------------------------------------------------------------------------------

ALERT_EMAILS = ENV.alerts.emails
ALERT_WEBHOOKS = ENV.alerts.webhooks
ALERT_WEBHOOK_SECRET = ENV.alerts.webhook_secret
ALERT_APPRISE = ENV.alerts.apprise
ALERT_LEAST_SEVERITY = ENV.alerts.least_severity  # of what the site is told; people choose for themselves
ALERT_QUEUE_MINUTES = ENV.alerts.queue_minutes
ALERT_MAIL = ENV.alerts.mail is not None

EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if ENV.alerts.mail else 'dummy'}.EmailBackend"
EMAIL_TIMEOUT = 10  # seconds
if ENV.alerts.mail:
    EMAIL_HOST, EMAIL_PORT = ENV.alerts.mail.host, ENV.alerts.mail.port
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = ENV.alerts.mail.user, ENV.alerts.mail.password
    EMAIL_USE_TLS = ENV.alerts.mail.tls == "starttls"
    EMAIL_USE_SSL = ENV.alerts.mail.tls == "implicit"
    DEFAULT_FROM_EMAIL = ENV.alerts.mail.sender

# -- language, time, files -------------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("pt-br", _("Brazilian Portuguese"))]
LOCALE_PATHS = [CHECKOUT / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True


LOGGING = logging_config(ENV.log_format, debug=DEBUG)

# -- Celery Beat's admin ---------------------------------------------------------------------------

# Ticks are intervals; a person's schedule is a row of ours in UTC (docs/operations.md).
DJANGO_CELERY_BEAT_TZ_AWARE = True
