# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     name: dormouse.ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Join this Colab runtime to your Dormouse pool
#
# 1. *Runtime → Change runtime type*: choose a **GPU**.
# 2. Fill in two values below: your server's address and a join token (console: *Workers → Add a worker*).
#    Or keep the token in Colab's **Secrets** (the key on the left) as `DORMOUSE_JOIN_TOKEN`, and the address as
#    `DORMOUSE_URL`, both with *Notebook access* on; then the two values are your account's label and this worker's name.
# 3. *Runtime → Run all*. The last cell is the worker: it runs as long as the session may, and gives the runtime back
#    at the end, also when you interrupt it.
#
# **What Google forbids** (text of 2026-11-21; your server asks the account's owner to acknowledge it, and enrols no
# worker before):
#
# - One account for one person: Google forbids using several accounts to get round its limits.
# - No tunnels and no remote proxies, on free and on paid runtimes; Dormouse opens none.
# - Free runtimes are not for this: without paid compute units Google forbids distributed computing workers and
#   remote control, and may end the runtime or block the account at any time. Use paid compute units.
# - Google publishes no quota and guarantees none: the hours that Dormouse counts are its own.
#
# Source: <https://research.google.com/colaboratory/faq.html>

# %% tags=["parameters"]
SERVER_URL = ""  # @param {type:"string"}
JOIN_TOKEN = ""  # @param {type:"string"}
# Where Colab's Secrets hold the token:
ACCOUNT_LABEL = ""  # @param {type:"string"}
WORKER_NAME = ""  # @param {type:"string"}

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
    """From Colab's Secrets, or from the environment where this is not Colab; empty where there is none."""
    try:
        from google.colab import userdata
    except ImportError:
        return os.environ.get(name, "")
    try:
        return userdata.get(name)
    except userdata.SecretNotFoundError:
        return ""
    except userdata.NotebookAccessError:
        raise Stop(
            f"the secret {name} is there, but this notebook may not read it: open Secrets (the key on the left),"
            " switch on 'Notebook access' beside it, then run all cells again."
        ) from None
    except getattr(userdata, "TimeoutException", TimeoutError):
        raise Stop(
            "Colab did not hand out its secrets in time: keep this page open and run all cells again."
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
                f"{server_url} could not be reached ({why}): check the address, that the server runs, and that it can"
                " be reached from the internet; then run all cells again."
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
# The session's limit is your account's: near it the worker takes no more jobs, finishes, and gives the runtime back.

# %%
from agent import cell


def give_back():
    """End the session, so that it uses up no more of what you pay for."""
    try:
        from google.colab import errors, runtime
    except ImportError:
        return
    print("Giving the runtime back.", flush=True)
    try:
        runtime.unassign()
    except (errors.Error, OSError) as error:
        raise Stop(
            f"the runtime could not be given back ({error}): choose Runtime, then Disconnect and delete runtime."
        ) from None


cell.run(url=server_url, token=token, name=WORKER_NAME.strip(), provider="colab", release=give_back)
