"""What every app's rows stand on, in the console: events, chains, people, tokens, sign-ins, ticks."""

from core.admin import alerts, beat, people, records, sign_in

__all__ = ["alerts", "beat", "people", "records", "sign_in"]
