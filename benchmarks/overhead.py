"""What spreading photos costs beyond what is done to them, on 2 idle cores in a minute or two:
``python -m benchmarks.overhead FOLDER``, with ``--address`` on a Ray cluster too.

Each of 10,000 tiny photos is read, thresholded and written as labels: by a plain loop, by one
process, by as many as there are cores, and by the cluster. The overhead of a photo is the clock's
time beyond the workers' share of the plain loop, waiting included. What a hundred photos take is
taken off, so that starting, which takes seconds however many there are, is left out.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsss import engines, infer, storage
from wsss.datasets.photos import read_photo
from wsss.devices import cores

FEW = 100


@dataclass
class Threshold:
    """A tiny photo to what is bright in it."""

    photo: Path
    folder: Path

    def done(self, id):
        return (self.folder / f"{id}.png").exists()

    def predict(self, id):
        return read_photo(self.photo)

    def postprocess(self, id, payload):
        storage.save_labels(self.folder / f"{id}.png", payload[..., 0] > 127)


def a_photo(work, ids):
    """Milliseconds a photo by the clock, and of the processor in this process, and the seconds that
    a few took.
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
        return a_photo(lambda some: infer.infer(some, job, label=name, processes=processes), ids)

    alone, *_ = a_photo(plain, ids)
    print(f"{len(ids):,} photos; a plain loop: {alone:.2f} ms a photo")
    rows = [(f"{count} processes", count, spread(f"{count}", count)) for count in {1, cores()}]
    if options.address:
        engines.choose("ray", options.address)
        from wsss import cluster  # needs Ray

        cluster.connect()
        count, _ = cluster.resources()
        rows.append((f"Ray with {count} CPUs", count, spread("ray")))
    for name, workers, (clock, processor, few) in rows:
        print(
            f"{name}: {clock:.2f} ms a photo, {clock - alone / workers:+.2f} beyond the loop's; "
            f"{processor:.2f} of the processor in the process that asks; the first {FEW} took "
            f"{few:.1f} s"
        )


if __name__ == "__main__":
    main()
