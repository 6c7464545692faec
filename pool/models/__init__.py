"""The pool's rows."""

from pool.models.accounts import Account, AccountUse, AccountWeek
from pool.models.artifacts import Artifact, JobObject, LogPart
from pool.models.dispatches import HAUNTING, Dispatch, LogChunk
from pool.models.history import UtilisationHour, UtilisationMinute, WorkerDay
from pool.models.interrogations import Interrogation
from pool.models.job_parts import JobDependency, JobFile, Submission
from pool.models.jobs import Choice, Job
from pool.models.lines import LABELS_LIMIT, NEED_KEY_LIMIT, Waiting
from pool.models.providers import STARTS_OPEN, NotebookStart, OfficialQuota, TermsAcknowledgement
from pool.models.work import JobArray, Work
from pool.models.workers import EnrollmentToken, EnrollmentUse, Sample, Session, Worker

__all__ = [
    "HAUNTING",
    "LABELS_LIMIT",
    "NEED_KEY_LIMIT",
    "STARTS_OPEN",
    "Account",
    "AccountUse",
    "AccountWeek",
    "Artifact",
    "Choice",
    "Dispatch",
    "EnrollmentToken",
    "EnrollmentUse",
    "Interrogation",
    "Job",
    "JobArray",
    "JobDependency",
    "JobFile",
    "JobObject",
    "LogChunk",
    "LogPart",
    "NotebookStart",
    "OfficialQuota",
    "Sample",
    "Session",
    "Submission",
    "TermsAcknowledgement",
    "UtilisationHour",
    "UtilisationMinute",
    "Waiting",
    "Work",
    "Worker",
    "WorkerDay",
]
