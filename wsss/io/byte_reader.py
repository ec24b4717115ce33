"""Reading bytes that a stranger wrote: no length in them is believed before it was held against
what is there.
"""

import struct


class Fault(Exception):
    """What is wrong with the bytes; the reader adds the file and the mend."""


class Bytes:
    """A cursor over bytes that refuses to read past their end."""

    def __init__(self, data, start=0, end=None):
        self.data, self.place = data, start
        self.end = len(data) if end is None else end

    @property
    def left(self):
        """How many bytes are still to come."""
        return self.end - self.place

    def take(self, count):
        """The next bytes, not copied."""
        if count < 0 or count > self.left:
            raise Fault(f"ends early: {count} bytes expected at {self.place}")
        self.place += count
        return memoryview(self.data)[self.place - count : self.place]

    def part(self, count):
        """A cursor over the next bytes alone."""
        self.take(count)
        return Bytes(self.data, self.place - count, self.place)

    def number(self, kind, order="<"):
        """One number, by ``struct``'s letter, little-endian unless told otherwise."""
        return struct.unpack(f"{order}{kind}", self.take(struct.calcsize(f"<{kind}")))[0]
