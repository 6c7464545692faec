"""What the pool raises alerts for. Codes with one English sentence each."""

from core.reasons import register

register(
    {
        "quota_70": "{who} has used {percent:.0f} % of its quota: {figures}",
        "quota_90": "{who} has used {percent:.0f} % of its quota: {figures}; it is nearly used up",
        "account_exhausted": "account {who} is used up: {figures}",
        "worker_is_lost": "worker {worker} ({account}) is lost: {why}",
        "queue_stuck": "{jobs} jobs of {owner} wait in vain, the longest for {minutes:.0f} minutes: {why}",
    }
)
