"""Alerts: what a person should know, told once. Each app says what is wrong at this moment (`causes`); a tick compares
that with the alerts that stand (`checking`), and an outbox tells people (`outbox`, `channels`).
"""
