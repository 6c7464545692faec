"""Why workers, jobs and dispatches of the pool are as they are. Codes with one English sentence each."""

from core.reasons import register

register(
    {
        # selection: why this worker was not chosen
        "worker_not_online": "it is {state}",
        "slots_taken": "all of its slots are taken ({slots})",
        "near_session_limit": "near its limit: session {used_h:.2f} h of {limit_h:g} h ({percent:.1f} %)",
        "near_week_limit": "near its limit: week {used_h:.2f} h of {limit_h:g} h ({percent:.1f} %)",
        "near_budget": "near its limit: {used_usd:.2f} of {limit_usd:.2f} USD this {period} ({percent:.1f} %)",
        "session_used_up": "its session is used up",
        "account_disabled": "its account is switched off",
        "gpu_too_small": "it has {have_gib:g} GiB of GPU memory, the job needs {need_gib:g} GiB",
        "wrong_provider": "it is a {have} worker, the job asks for {need}",
        "session_too_short": "{left_h:.2f} h are left of its session, the job expects {need_h:g} h",
        "week_too_short": "{left_h:.2f} h are left of its week, the job expects {need_h:g} h",
        "kept_for_instance": "it takes only jobs that name its instance",
        "not_that_instance": "it is not the instance that the job names",
        "somebody_elses": "it belongs to somebody else",
        "labels_missing": "it lacks the labels {missing}",
        # jobs: what they wait for
        "job_submitted": "waits for the next choice of a worker",
        "no_workers": "no worker is enrolled",
        "no_worker_of_provider": "no {need} worker is enrolled",
        "no_worker_with_memory": "no worker with {need_gib:g} GiB free: the largest has {most_gib:g} GiB",
        "no_worker_with_labels": "no worker that fits has the labels {labels}",
        "none_online": "none of the {workers} workers that fit is online",
        "all_switched_off": "the accounts of all {workers} workers that fit are switched off",
        "all_busy": "all {workers} workers that fit and are safe are busy",
        "all_near_limit": "all {workers} workers that fit and are online are near their limit",
        "none_long_enough": "no worker that fits has {need_h:g} h left in its session or week",
        "instance_asleep": "instance asleep",
        "instance_unknown": "instance {instance} has no worker",
        # jobs: what became of them
        "job_chosen": "chosen: {worker} ({percent:.1f} % used)",
        "job_claimed": "{worker} has started it",
        "job_store_away": "its files are on their way: the store is away",
        "job_done": "exit code 0",
        "job_done_in_part": "exit code 0; {count} of its files were not kept, first {path}: {why}",
        "job_not_kept": "exit code 0, but {error}",
        "job_exit_code": "exit code {exit_code}",
        "job_exit_code_in_part": "exit code {exit_code}; {count} of its files were not kept, first {path}: {why}",
        "job_timed_out": "timed out after {limit_s:g} s",
        "job_timed_out_in_part": "timed out after {limit_s:g} s; {count} of its files were not kept, first {path}: {why}",
        "job_retry": "exit code {exit_code}; retry {number} of {most} at {at}",
        "job_retry_due": "retry {number} waits for the next choice of a worker",
        "job_after": "waits for {job} to have {what}",
        "job_after_many": "waits for {count} jobs to have {what}, the first of them {job}",
        "job_after_over": "the jobs before it have ended: it waits for the next choice of a worker",
        "job_dependency_failed": "{job}, which it comes after, has {state}",
        "job_failed_on_worker": "{worker} could not run it: {error}",
        "job_requeued": "attempt {attempt} ended early: {why}",
        "job_attempts_used_up": "all {attempts} attempts ended early, the last because: {why}",
        "job_cancelled": "cancelled by {by}",
        # checkpoints
        "checkpoint_check": "checkpoint {generation} is looked at in the store",
        "checkpoint_not_whole": "checkpoint {generation} is not whole in the store",
        "checkpoint_over": "it is {state} by now",
        # dispatches
        "dispatch_rung": "the worker's bell was rung",
        "dispatch_claimed": "the worker holds it",
        "dispatch_done": "the worker reported success",
        "dispatch_failed": "the worker reported: {error}",
        "dispatch_timed_out": "the worker ended it after {limit_s:g} s, its time limit",
        "dispatch_cancelled": "stopped as ordered",
        "dispatch_interrupted": "the worker stopped before the work ended: {error}",
        "dispatch_unanswered": "the worker did not answer its bell for {minutes:g} minutes",
        "lease_over": "its worker has not mentioned it for {lease_s:g} s",
        "worker_away": "its worker is {state}",
        "not_wanted": "it is not wanted any more: {why}",
        # workers
        "worker_created": "made for instance {instance}",
        "worker_enrolled": "enrolled with a token of {account}",
        "worker_labels": "its labels are {labels}",
        "worker_posted": "it posted its status",
        "posts_missing": "no status post for {silent_s:.0f} s; it posts every {interval_s:g} s",
        "new_session": "a new session of it was enrolled",
        "session_ended": "its session has ended",
        "secret_reused": "a secret that had been replaced was used again: somebody may have copied it",
        "drain_stands": "it posted again, and the order to drain it still stands",
        "session_near_end": "its session is near its end: its agent ends what it runs",
        "drain_taken_back": "the order to drain was taken back",
        "drain_over": "it drained for longer than {minutes:g} minutes",
        "question_open": "it was asked by {way}",
        "question_answered": "it answered",
        "question_unanswered": "it did not answer",
        "health_failed": "its health URL did not answer: {error}",
        # accounts
        "limits_official": "the provider says so itself: {changes}",
        "week_corrected": "the provider has counted {official_h:.2f} h of this week, here it was {own_h:.2f} h",
        "session_gap": "nothing was heard for {gap_h:.2f} h; its session went on and was counted",
    }
)

REMEDIES = {
    "no_workers": "enrol a worker: make a join token and start an agent with it",
    "no_worker_of_provider": "enrol a {need} worker, or submit it without a provider",
    "no_worker_with_memory": "enrol a worker with {need_gib:g} GiB, or ask for at most {most_gib:g} GiB",
    "no_worker_with_labels": "give a worker the labels {labels}, or ask for fewer",
    "none_online": "start one of them; it takes the job with its first status post",
    "all_switched_off": "switch one of their accounts on again",
    "all_busy": "it starts when one of them has a slot free and the jobs before it are placed, or when another joins",
    "all_near_limit": "it starts when a week begins anew, or on a new session or another account",
    "none_long_enough": "start a fresh session, or expect at most {most_h:.2f} h",
    "instance_asleep": "wake the instance",
    "instance_unknown": "cancel it, and submit it without the instance",
    "worker_not_online": "it starts when the instance posts its status again",
    "slots_taken": "it starts when a job of the instance ends",
    "account_disabled": "switch the account on again",
    "gpu_too_small": "ask for at most {have_gib:g} GiB",
    "wrong_provider": "submit it without a provider",
    "labels_missing": "give the worker the labels {missing}, or ask for fewer",
    "session_too_short": "start a fresh session, or expect at most {left_h:.2f} h",
    "week_too_short": "wait for the week to begin anew, or expect at most {left_h:.2f} h",
    "session_used_up": "start a fresh session",
    "near_session_limit": "start a fresh session",
    "near_week_limit": "it starts when the week begins anew",
    "near_budget": "it starts when the {period} is over, or with a larger budget",
    "job_retry": "it is queued again at {at}; cancel it to give up",
    "job_after": "it is queued when {job} has {what}; if that cannot come any more, it is cancelled",
    "job_after_many": "it is queued when all of them have {what}; if that cannot come any more, it is cancelled",
}
"""Reason of a waiting job -> what would let it start. With the same parameters as the reason."""


def remedy_of(code: str) -> str:
    """The code of the sentence that says what would change it; empty where there is none."""
    return f"{code}.remedy" if code in REMEDIES else ""


register({f"{code}.remedy": sentence for code, sentence in REMEDIES.items()})
