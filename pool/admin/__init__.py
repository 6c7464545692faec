"""The pool in the console."""

from pool.admin import accounts, arrays, jobs, records, starts, workers

__all__ = ["accounts", "arrays", "jobs", "records", "starts", "workers"]
