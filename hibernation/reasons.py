"""Why an instance is kept awake or put to sleep, why a policy was refused, what a schedule did. Pure.

Import `because` from here: then the sentences are registered. The chains' own are in `reasons_chains`.
"""

from core.reasons import because, register

__all__ = ["because"]

register(
    {
        # the verdict: what keeps it awake
        "awake_switched_off": "automatic hibernation is switched off for it",
        "awake_working": "work on it is not finished: {work}",
        "awake_held": "keep awake until {until}",
        "awake_window": "its schedule keeps it awake until {until}",
        "awake_minimum": "it stays awake for at least {minutes:g} minutes after a start, until {until}",
        "awake_no_reading": "its agent has sent no reading since it started, which counts as activity",
        "awake_stale": "the last reading is from {at}, {age_s:.0f} s ago: more than {limit_s:g} s counts as activity",
        "awake_gpu_unknown": "its GPU utilisation is unknown, which counts as activity",
        "awake_gpu_busy": "GPU {util:.1f} % is not below {threshold:g} %",
        "awake_signal": "{signal} is {value:g}, above {threshold:g}",
        "awake_signal_unknown": "{signal} is unknown, which counts as activity",
        # the verdict: idle
        "idle_counting": "GPU {util:.1f} % below {threshold:g} % since {since}, hibernates at {due}",
        "idle_over": "GPU {util:.1f} % below {threshold:g} % since {since} UTC, for all of {minutes:g} minutes",
        # what happens next
        "next_hibernate": "hibernates at {at} unless somebody uses it",
        "next_sleep": "its schedule puts it to sleep at {at}",
        "next_wake": "its schedule wakes it at {at}",
        "next_delete": "counts as deleted from {at} on; its snapshot stays and can be woken",
        # policies
        "config_changed": "{by} changed its configuration",
        "policy_changed": "{by} changed the policy of {scope}",
        "policy_removed": "{by} removed the policy of {scope}",
        "policy_not_object": "must be a JSON object, not {found}",
        "policy_unknown_key": "is not a setting; known here: {known}",
        "policy_not_wrapped": 'belongs inside "auto_hibernation"',
        "policy_not_number": "must be a number, not {found}",
        "policy_not_whole": "must be a whole number, not {found}",
        "policy_out_of_range": "must be {range}, not {found}",
        "policy_not_boolean": "must be true or false, not {found}",
        "policy_not_choice": "must be one of {choices}, not {found}",
        "policy_not_time": "must be a time as HH:MM from 00:00 to 23:59, not {found}",
        "policy_unknown_zone": "{found} is not a time zone of the IANA list, such as America/Sao_Paulo or UTC",
        "policy_not_weekdays": "must list days from 0 (Monday) to 6 (Sunday), at least one and none twice, not {found}",
        "policy_window_too_short": "is {window_s:g} s, shorter than one check interval of {interval_s:g} s",
        "policy_no_times": 'needs a wake_time or a sleep_time while wake_method is "scheduled"',
        "policy_same_times": "wake_time and sleep_time are both {at}: the instance would be awake for no time",
        # schedules
        "schedule_changed": "{by} changed its schedule",
        "schedule_wakes": "its schedule: awake from {at}",
        "schedule_sleeps": "its schedule: asleep from {at}",
        "schedule_awake_already": "its schedule, awake from {at}: it is {state}",
        "schedule_put_off": "asleep from {at} by its schedule, but {why}",
        "schedule_refused": "its schedule could not be kept at {at}: {why}",
    }
)
