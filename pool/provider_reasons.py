"""Why the sessions that the control plane starts at a provider are as they are."""

from core.reasons import register

register(
    {
        "start_asked": "asked for by {by}; the provider will be asked next",
        "start_busy": "not pushed yet: {error}",
        "start_doubt": "whether it was pushed is not known: {error}; it is looked for before anything is repeated",
        "start_sought": "its push was not answered, and it is not there yet; it is looked for before anything is repeated",
        "start_pushed": "version {version} is with the provider",
        "start_found": "its push had arrived, though the answer was lost: version {version}",
        "start_waits": "the provider looks for a machine",
        "start_unread": "its state cannot be read at present: {error}",
        "start_runs": "the provider runs it",
        "start_joined": "it has joined as {worker}",
        "start_over": "the provider says that it is over",
        "start_cancelled": "it was cancelled at the provider",
        "start_refused": "{error}",
        "start_broke": "it ended in error: {error}",
        "start_never_joined": "its session is over, and no worker has joined from it: {error}",
        "start_absent": "the provider says that there is no such notebook; believed when it has said so for {minutes} min",
        "start_withdrawn": "taken back by {by}",
        "start_gone": "the provider has no such notebook any more",
    }
)
