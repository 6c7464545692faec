"""The web process, behind gunicorn. Refuses to start on wrong settings, with the sentences of the checks."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.wsgi import get_wsgi_application

from config.checks import refuse_wrong_settings

application = get_wsgi_application()
refuse_wrong_settings()
