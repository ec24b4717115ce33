"""The processes of one ``wsss run``, found by a mark in their environment, whoever their parent
is by now; read from /proc.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MARK = "WSSS_FAULTS_LIFE"


class Found(NamedTuple):
    """A process at work."""

    pid: int
    role: str  # driver, papermill, kernel, worker or other
    stage: str  # of papermill's process, else empty
    command: tuple


def role_of(command):
    """What a process does, from its command line."""
    if "ipykernel_launcher" in command:
        return "kernel"
    if any("spawn_main" in word for word in command):
        return "worker"
    if len(command) > 3 and command[1] == "-c" and "papermill" in command[2]:
        return "papermill"
    return "driver" if command[1:4] == ("-m", "wsss", "run") else "other"


def stage_of(command):
    """The stage whose notebook is among a command's words."""
    for word in command:
        if word.endswith(".ipynb"):
            return Path(word).stem[3:]
    return ""


def marked(mark):
    """The living processes that have the mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                command = tuple(words[:-1])
                role = role_of(command)
                stage = stage_of(command) if role == "papermill" else ""
                found.append(Found(int(folder.name), role, stage, command))
    return sorted(found)


def kill(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
