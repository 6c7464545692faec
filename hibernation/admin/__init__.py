"""Hibernation in the console."""

from hibernation.admin import instances, policies, records

__all__ = ["instances", "policies", "records"]
