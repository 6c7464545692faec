"""The pool in the console."""

from pool.admin import accounts, jobs, records, starts, workers

__all__ = ["accounts", "jobs", "records", "starts", "workers"]
