"""Ten thousand photos take no more memory than the first few hundred, in each process, seen from
outside.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from test_memory import run_cams, run_regions

if __name__ == "__main__":
    run_{kind}({folder!r}, {photos}, {processes})
"""
EARLY = 500  # photos after which memory is first looked at
GROWTH = 20  # MiB; if the photos were kept as the network takes them, 36 KiB each, it would be 35


class Repeated:
    """A dataset in which every photo is the same small one, with two classes."""

    classes = ("a", "b")

    def image(self, id):
        import numpy as np

        return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)

    def labels(self, id):
        return [1, 2]


def run_cams(folder, photos, processes):
    import torch

    from wsss import models
    from wsss.photos import jobs, map_photos

    torch.set_num_threads(1)  # as in the other tests; processes of a pool do so themselves
    network = models.build_cam("small", 2)
    job = jobs.cam_job(Repeated(), network, folder=Path(folder), scales=(1.0, 0.5), flip=True)
    map_photos.infer([str(n) for n in range(photos)], job, label="maps", processes=processes)


def run_regions(folder, photos, processes):
    """Photos with maps, which are one file under many names."""
    import numpy as np

    from wsss import crf
    from wsss.io import artifacts
    from wsss.photos import jobs, map_photos

    cams, ids = Path(folder + "_cams"), [str(n) for n in range(photos)]
    artifacts.save_cams(cams / "0.npz", [1, 2], cams=np.random.default_rng(0).random((2, 12, 16)))
    for id in ids[1:]:
        os.link(cams / "0.npz", cams / f"{id}.npz")
    settings = {"alpha_low": 4, "alpha_high": 16, "crf": crf.CrfParams(), "crf_steps": 2}
    job = jobs.affinity_label_job(Repeated(), cams, folder=Path(folder), **settings)
    map_photos.infer(ids, job, label="regions", processes=processes)


def resident(process):
    """Its resident memory in MiB, and its children; None where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) // 1024, [
            int(child) for child in children
        ]
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("kind, processes", [("cams", 1), ("regions", 2)])
@pytest.mark.parametrize(
    "photos",
    [pytest.param(1_500, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)],
)
def test_memory_stays_flat_over_many_photos(tmp_path, photos, kind, processes):
    script, folder = tmp_path / "program.py", tmp_path / "out"
    script.write_text(
        PROGRAM.format(
            tests=str(Path(__file__).parent),
            kind=kind,
            folder=str(folder),
            photos=photos,
            processes=processes,
        )
    )
    early, late, done = {}, {}, 0
    program = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    while done < photos and program.poll() is None:  # ending takes memory, and no matter
        done = sum(1 for _ in os.scandir(folder)) if folder.exists() else 0
        waiting = [program.pid] if done >= EARLY else []
        while waiting:
            process = waiting.pop()
            seen = resident(process)
            if seen:
                early.setdefault(process, seen[0])
                late[process] = seen[0]
                waiting += seen[1]
        time.sleep(0.2)
    assert program.wait() == 0 and done == photos
    assert len(early) == (1 if processes == 1 else processes + 2)  # and the one that tracks them
    growth = {process: late[process] - early[process] for process in early}
    print(f"{kind}, {processes} processes: {sorted(late.values())} MiB, grown {growth}")
    assert max(growth.values()) <= GROWTH
