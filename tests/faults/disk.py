"""Output folders that take nothing: a full disk, and one that cannot be written."""

import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

from . import results
from .life import live

ROOM = 2 << 30  # bytes, of a disk that is large enough
LITTLE = 256 << 10  # bytes left when it fills up
WHEN = "infer_cam"  # the stage that it fills up in
NOBODY_WRITES = Path("/sys/wsss-outputs")


@contextmanager
def small_disk(folder):
    """A file system in memory at ``folder``, in a namespace of its own.

    Yields:
        ``(words that bring a command into the namespace, the folder as seen from outside, a
        function that sets its size in bytes)``, or a text: why it cannot be had.
    """
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size={ROOM} tmpfs '{folder}' && echo ready && exec sleep 100000"
    for options in (["-m"], ["-r", "-m"]):
        holder = subprocess.Popen(
            ["unshare", *options, "sh", "-c", mount],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True},
        )
        if holder.stdout.readline().strip() == "ready":
            break
        holder.wait()
    else:
        yield "no namespace of mounts can be had here"
        return
    user = ["-U", "--preserve-credentials"] if "-r" in options else []
    enter = ("nsenter", "-t", str(holder.pid), *user, "-m")

    def resize(size):
        command = [*enter, "mount", "-o", f"remount,size={size}", str(folder)]
        subprocess.run(command, check=True)

    try:
        yield enter, Path(f"/proc/{holder.pid}/root{folder}"), resize
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def _space(folder):
    """Bytes in use of the file system of a folder."""
    return shutil.disk_usage(folder).used


def one_line(life):
    """Lines about a run that ended otherwise than with one line for people."""
    lines = [line for line in life.output.splitlines() if line.startswith("wsss: ")]
    return [] if len(lines) == 1 else [f"expected one line of 'wsss: ...', found {lines}"]


def full(place, expected, pace, say):
    outputs = place.root / "small-disk"
    with small_disk(outputs) as had:
        if isinstance(had, str):
            return had
        enter, seen, resize = had
        chain = place.chain("full-disk", outputs=outputs, seen=seen, prefix=enter)
        filled = []

        def fill(watch):
            if watch.stage == WHEN and WHEN in watch.worked and not filled:
                filled.append(True)
                resize(_space(seen) + LITTLE)

        life = live(chain, codes=(1, 2), each=fill)
        say(f"full disk: {life.output.strip().splitlines()[-1]}")
        faults = [*life.faults, *one_line(life)] if filled else ["it never filled up"]
        faults += [
            f"left by the full disk: {line}" for line in results.false_claims(expected, chain)
        ]
        resize(ROOM)
        life = live(chain)
        return faults + life.faults + results.compare(expected, chain)


def read_only(place, expected, pace, say):
    if not Path("/sys").is_dir():
        return "there is no /sys here"
    chain = place.chain("read-only", outputs=NOBODY_WRITES)
    life = live(chain, codes=(2,))
    say(f"read-only: {life.output.strip()}")
    started = [f"{stage} was started" for stage in life.ran]
    lines = life.output.strip().splitlines()
    more = [] if len(lines) == 1 else [f"expected one line, found {len(lines)}"]
    return life.faults + one_line(life) + started + more
