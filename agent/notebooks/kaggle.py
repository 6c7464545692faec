# ---
# jupyter:
#   kaggle:
#     accelerator: nvidiaTeslaT4
#     isGpuEnabled: true
#     isInternetEnabled: true
#     language: python
#     sourceType: notebook
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Join this Kaggle session to your Dormouse pool
#
# 1. *Settings*: **Accelerator → GPU T4 x2**, **Internet → on** (both need a phone-verified account).
# 2. Fill in two values below: your server's address and a join token (console: *Workers → Add a worker*).
#    Or keep the token in Kaggle's **Secrets** (*Add-ons → Secrets*) as `DORMOUSE_JOIN_TOKEN`, and the address as
#    `DORMOUSE_URL`, both attached; then the two values are your account's label and this worker's name.
# 3. *Run all*, or *Save version → Save & run all* for a session that runs without this page. The last cell is the
#    worker: it runs as long as the session may, and ends by itself, also when you interrupt it.
#
# **What Kaggle forbids** (text of 2026-11-21; your server asks the account's owner to acknowledge it, and enrols no
# worker before):
#
# - One account for one person: Kaggle forbids a second one.
# - Kaggle's machines are for your own use: read its terms before you work for others or for money with them.
# - Dormouse opens no tunnel into a session: do not open one yourself.
# - Kaggle has blocked people who ran distributed computing programs: what your jobs do there is your decision
#   and your account's risk.
#
# Source: <https://www.kaggle.com/terms>

# %% tags=["parameters"]
SERVER_URL = ""
JOIN_TOKEN = ""
# Where Kaggle's Secrets hold the token:
ACCOUNT_LABEL = ""
WORKER_NAME = ""

# %% [markdown]
# ## Read the values

# %%
import os
import re


class Stop(Exception):
    """Shown as one sentence, in place of a traceback."""

    def _render_traceback_(self):
        return [f"Dormouse: {self}"]


def secret(name):
    """From Kaggle's Secrets, or from the environment where there are none; empty where it is nowhere."""
    try:
        from kaggle_secrets import BackendError, CredentialError, UserSecretsClient
    except ImportError:
        return os.environ.get(name, "")
    try:
        return UserSecretsClient().get_secret(name)
    except BackendError:
        return ""  # none of that name is attached to this notebook
    except CredentialError:
        return os.environ.get(name, "")  # a pushed notebook cannot have any
    except ConnectionError as error:
        raise Stop(
            f"Kaggle's secrets cannot be read ({error}): switch the internet on (Settings, then Internet), then run all"
            " cells again."
        ) from None


def first(*values):
    return next((value.strip() for value in values if value and value.strip()), "")


own_secret = "DORMOUSE_JOIN_TOKEN_" + re.sub(r"\W+", "_", ACCOUNT_LABEL.strip()).upper()
server_url = first(SERVER_URL, secret("DORMOUSE_URL") if not SERVER_URL.strip() else "").rstrip("/")
token = first(JOIN_TOKEN)
if not token and ACCOUNT_LABEL.strip():
    token = first(secret(own_secret))
if not token:
    token = first(secret("DORMOUSE_JOIN_TOKEN"))
if not re.fullmatch(r"https?://[^/\s?#@]+", server_url):
    raise Stop(
        f"{f'SERVER_URL is {server_url!r}, which is no server' if server_url else 'there is no server address'}: write it"
        " like https://pool.example.com into SERVER_URL in the first cell, or into the secret DORMOUSE_URL, then run all"
        " cells again."
    )
if not token:
    raise Stop(
        "there is no join token: put one into JOIN_TOKEN in the first cell, or into the secret DORMOUSE_JOIN_TOKEN"
        f"{f' or {own_secret}' if ACCOUNT_LABEL.strip() else ''}, then run all cells again. The console makes them:"
        " Workers, then Add a worker."
    )
print(f"Joining {server_url} as {WORKER_NAME.strip() or 'a worker that the server will name'}.")

# %% [markdown]
# ## Install the agent, by the hash that the server names

# %%
import importlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = float(os.environ.get("DORMOUSE_PATIENCE_S", "300"))


def fetch(url):
    """What stands at the address; asked again while it cannot be reached, for PATIENCE_S."""
    give_up_s, wait_s = time.monotonic() + PATIENCE_S, 1
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise Stop(
                    f"{url} answers {error.code}: SERVER_URL is not the address of a Dormouse server. Correct it in"
                    " the first cell, then run all cells again."
                ) from None
            why = f"it answers {error.code}"
        except (urllib.error.URLError, OSError) as error:
            why = str(getattr(error, "reason", error))
        if time.monotonic() + wait_s > give_up_s:
            raise Stop(
                f"{server_url} could not be reached ({why}): switch the internet on (Settings, then Internet); check the"
                " address, that the server runs, and that it can be reached from the internet; then run all cells again."
            )
        print(f"{server_url} cannot be reached yet ({why}); again in {wait_s} s.", flush=True)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, 30)


def pip_install(*words):
    pip = [sys.executable, "-m", "pip", "--no-color", "--disable-pip-version-check", "--no-input", "install"]
    done = subprocess.run(
        [*pip, "--quiet", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        said = " ".join(done.stdout.partition("ERROR:")[2].split() or done.stdout.split())
        raise Stop(f"the agent could not be installed. Run all cells again; pip says: {said[:600]}")


link = re.search(r'href="([\w.+-]+\.whl)#sha256=([0-9a-f]{64})"', fetch(f"{server_url}/agent/"))
if link is None:
    raise Stop(
        f"{server_url} is not a Dormouse server: it offers no agent. Correct SERVER_URL in the first cell, then run all"
        " cells again."
    )
wheel = f"dormouse-agent @ {server_url}/agent/{link[1]}#sha256={link[2]}"
# The agent itself always anew, as this very server has it; of what it needs, only what is not there yet.
pip_install("--no-deps", "--force-reinstall", wheel)
pip_install(wheel)
importlib.invalidate_caches()
print(f"Installed {link[1]} (sha256 {link[2][:12]}…).")

# %% [markdown]
# ## Work
# The session's limit is your account's: near it the worker takes no more jobs, finishes, and this cell ends.

# %%
from agent import cell


def end():
    """A saved version ends with its last cell; an open page goes on using up hours until it is stopped."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE", "Interactive") == "Interactive":
        print("Stop this session (the power button above), so that it uses up no more of your hours.")


cell.run(url=server_url, token=token, name=WORKER_NAME.strip(), provider="kaggle", release=end)
