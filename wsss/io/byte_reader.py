"""Reading untrusted bytes: each length in them is checked against the bytes that are left."""

import mmap
import struct

Buffer = bytes | memoryview | mmap.mmap


class Fault(Exception):
    """What is wrong with the bytes; the caller adds the file and the fix."""


class Bytes:
    """A cursor over bytes that refuses to read past their end."""

    def __init__(self, data: Buffer) -> None:
        self.data, self.place = memoryview(data), 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def take(self, count: int) -> memoryview:
        """The next bytes, not copied; raises Fault if there are fewer."""
        if count < 0 or count > self.left:
            raise Fault(f"ends early: {count} bytes expected at {self.place}")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, kind: str, order: str = "<") -> int:
        """One whole number, by ``struct``'s letters of its kind and byte order."""
        return struct.unpack(f"{order}{kind}", self.take(struct.calcsize(f"<{kind}")))[0]
