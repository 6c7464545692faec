"""Why the capacity plan opens an account, or does not, and what it says in all."""

from core.reasons import register

register(
    {
        "plan_lapses": "{usable_h:.1f} h of its week can still be used and lapse in {resets_in_h:.0f} h",
        "plan_unlimited": "it has no weekly limit; a session of it serves {session_h:.1f} h",
        "plan_disabled": "it is switched off",
        "plan_used_up": "{usable_h:.1f} h of its week can still be used: too little for a session; anew in {resets_in_h:.0f} h",
        "plan_open": "all of its {sessions} sessions run",
        "plan_not_needed": "not needed within the next day",
        "plan_no_hours": "it has no hours to plan: nothing limits it",
        "plan_enough": "the {online} workers that are online are enough for the next day",
        "plan_open_now": "open {account} now: workers that are missing: {missing}",
        "plan_open_later": "open {account} in {in_h:.0f} h: workers that are missing then: {missing}",
        "plan_nothing_left": "workers that are missing in {in_h:.0f} h: {missing}, and no account of yours has a session left",
    }
)
