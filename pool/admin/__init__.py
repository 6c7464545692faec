"""The pool in the console."""

from pool.admin import accounts, jobs, records, workers

__all__ = ["accounts", "jobs", "records", "workers"]
