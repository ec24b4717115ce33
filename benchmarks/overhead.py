"""What spreading photos costs beyond the work on them, on 2 idle cores in a minute or two:
``python -m benchmarks.overhead FOLDER``, with ``--address`` on a Ray cluster too.

Each of 10,000 tiny photos is read, thresholded and written as labels: by a plain loop, by one
process, by as many as there are cores, and by the cluster. The overhead of a photo is its time by
the clock, waiting included, minus the workers' share of the plain loop. The time of a hundred
photos is subtracted first, which leaves out the seconds that workers take to start.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.datasets.photos import read_photo
from wsss.io import artifacts
from wsss.photos import map_photos
from wsss.runtime.devices import cores

FEW = 100


@dataclass
class Threshold:
    """A tiny photo to its bright pixels."""

    photo: Path
    folder: Path

    def done(self, id):
        return (self.folder / f"{id}.png").exists()

    def predict(self, id):
        return read_photo(self.photo)

    def postprocess(self, id, payload):
        artifacts.save_labels(self.folder / f"{id}.png", payload[..., 0] > 127)


def a_photo(work, ids):
    """Milliseconds per photo by the clock, and of this process's processor time; and the seconds
    that the first ``FEW`` photos took.
    """
    times = []
    for some in (ids[:FEW], ids[FEW:]):
        clock, processor = time.perf_counter(), time.process_time()
        work(some)
        times.append((time.perf_counter() - clock, time.process_time() - processor))
    more = len(ids) - 2 * FEW
    return *(1000 * (rest - few) / more for few, rest in zip(*times, strict=True)), times[0][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a new one, which all machines see")
    parser.add_argument("--photos", type=int, default=10_000, metavar="N")
    parser.add_argument("--address", help="of a Ray cluster")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    folder = options.folder.absolute()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    ids = [str(number) for number in range(options.photos)]

    def plain(some):
        job = Threshold(folder / "photo.png", folder / "plain")
        for id in some:
            job.postprocess(id, job.predict(id))

    def spread(name, processes=None):
        job = Threshold(folder / "photo.png", folder / name)
        return a_photo(
            lambda some: map_photos.infer(some, job, label=name, processes=processes), ids
        )

    alone, *_ = a_photo(plain, ids)
    print(f"{len(ids):,} photos; a plain loop: {alone:.2f} ms a photo")
    rows = [(f"{count} processes", count, spread(f"{count}", count)) for count in {1, cores()}]
    if options.address:
        from wsss.cluster import session  # needs Ray

        session.start(options.address)
        session.connect()
        count, _ = session.resources()
        rows.append((f"Ray with {count} CPUs", count, spread("ray")))
    for name, workers, (clock, processor, few) in rows:
        print(
            f"{name}: {clock:.2f} ms a photo, {clock - alone / workers:+.2f} beyond the loop's; "
            f"{processor:.2f} of processor time in this process; the first {FEW} took "
            f"{few:.1f} s"
        )


if __name__ == "__main__":
    main()
