"""The settings of an end-to-end installation: the real ones, but all agents and people share one address.

Throttles count by address; on this one machine dozens of boxes enrol within a minute. Static files are not compressed:
no test here asks for one, and `./run` is tested with the real ones.
"""

from config.settings import *  # noqa: F403
from config.settings import REST_FRAMEWORK, STORAGES

REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"] = dict.fromkeys(
    REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"], "1000000/min"
)
STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
