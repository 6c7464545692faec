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
import ipaddress
import os
import re
from urllib.parse import urlsplit


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
        # Kaggle's client says so of every answer that is an error, too; then it was reached.
        status = getattr(error.__cause__ or error.__context__, "code", None)
        if status in (401, 403):
            return os.environ.get(name, "")  # nor has it a right to them
        if status is not None:
            raise Stop(
                f"Kaggle's secrets cannot be read (it answers {status}): run all cells again."
            ) from None
        raise Stop(
            f"Kaggle's secrets cannot be read ({error}): switch the internet on (Settings, then Internet), then run all"
            " cells again."
        ) from None


def first(*values):
    return next((value.strip() for value in values if value and value.strip()), "")


def is_server(text):
    """Whether it is https://host or https://host:port. A join token in its place is none."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        return False
    return bool(host and port != 0 and "dj_" not in text and re.fullmatch(r"https?://[^/\s?#@]+", text))


def is_near(url):
    """Whether it is an address of this machine, or of a private network."""
    host = urlsplit(url).hostname
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost"


own_secret = "DORMOUSE_JOIN_TOKEN_" + re.sub(r"\W+", "_", ACCOUNT_LABEL.strip()).upper()
server_url = first(SERVER_URL, secret("DORMOUSE_URL") if not SERVER_URL.strip() else "").rstrip("/")
token = first(JOIN_TOKEN)
if not token and ACCOUNT_LABEL.strip():
    token = first(secret(own_secret))
if not token:
    token = first(secret("DORMOUSE_JOIN_TOKEN"))
if not is_server(server_url):
    # What stands there is not shown: it may be a token, and what a cell prints is saved with the notebook.
    wrong = "what SERVER_URL holds is no server's address" if server_url else "there is no server address"
    raise Stop(
        f"{wrong}: write it like https://pool.example.com into SERVER_URL in the first cell, or into the secret"
        " DORMOUSE_URL, then run all cells again."
    )
if not token:
    raise Stop(
        "there is no join token: put one into JOIN_TOKEN in the first cell, or into the secret DORMOUSE_JOIN_TOKEN"
        f"{f' or {own_secret}' if ACCOUNT_LABEL.strip() else ''}, then run all cells again. The console makes them:"
        " Workers, then Add a worker."
    )
if is_near(server_url):
    print(
        f"Note: {server_url} is an address of this machine or of a private network; your server must be told the one"
        " under which the internet reaches it (DORMOUSE_PUBLIC_URL)."
    )
print(f"Joining {server_url} as {WORKER_NAME.strip() or 'a worker that the server will name'}.")

# %% [markdown]
# ## Install the agent, by the hash that the server names

# %%
import http.client
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
    # Some proxies refuse the name that Python gives itself.
    request = urllib.request.Request(url, headers={"User-Agent": "dormouse-notebook"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            why, after = f"it answers {error.code}", error.headers.get("Retry-After", "")
            if error.code < 500 and error.code not in (408, 425, 429):
                raise Stop(
                    f"{url} answers {error.code}: SERVER_URL is not the address of a Dormouse server, or something before"
                    " it refuses (a proxy, a firewall, a login). Correct it in the first cell, then run all cells again."
                ) from None
            if after.isascii() and after.isdigit():
                wait_s = max(wait_s, min(int(after), 60))
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
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
# A kernel that has run these cells before still holds the agent of that time.
for module in [name for name in sys.modules if name.partition(".")[0] == "agent"]:
    del sys.modules[module]
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
