"""Bytes spoilt at random, also below checksums."""

import gzip
import io
import struct
import zipfile
import zlib

TOKENS = (  # what readers of texts have stumbled over
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\x85", b"\xed\xa0\x80", b"'", b'"', b",", b";"),
    *(b"null", b"true", b"NaN", b"-1", b"1e999", b"9" * 5000, b"2001-99-99", b"0x", b"../x", b"/x"),
    *(b"[" * 3000, b"{", b"}", b"]", b": ", b"\n- ", b"&a [*a]", b"*a", b"<<: ", b"? ", b"\t"),
    *(b"!!python/object/apply:os.system [x]", b"!!binary x", b"!!int x", b"!!timestamp x"),
    *(b"<a>" * 2000, b"&x;", b"<!DOCTYPE a [", b"]]>", b"\\ud800", b"\\u0000", b"#", b"%YAML 9"),
)


def spoilt(random, content, others):
    """Bytes with one to four changes: bits, numbers, cuts, pieces moved, repeated or of others."""
    content = bytearray(content)
    for _ in range(random.integers(1, 5)):
        length = len(content)
        place = int(random.integers(length + 1))
        head = min(place, 64) if random.random() < 0.3 else place  # where the lengths are
        match random.integers(9):
            case 0 if length:
                content[min(place, length - 1)] ^= 1 << random.integers(8)
            case 1 if length:
                content[min(head, length - 1)] = random.integers(256)
            case 2:
                del content[place:]
            case 3:
                number = int(random.choice([0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62]))
                form = random.choice(["<H", "<I", "<Q", ">H", ">I", ">Q"])
                size = struct.calcsize(form)
                content[head : head + size] = struct.pack(form, number % 256**size)
            case 4:
                start = int(random.integers(length + 1))
                content[place:place] = content[start : start + int(random.integers(1, 200))]
            case 5:
                other = others[random.integers(len(others))]
                start = int(random.integers(len(other) + 1))
                content[place:] = other[start:]
            case 6:
                content[place:place] = bytes([random.integers(256)]) * int(random.integers(1, 3000))
            case 7:
                content[place:place] = TOKENS[random.integers(len(TOKENS))]
            case 8:
                del content[place : place + int(random.integers(1, 50))]
    return bytes(content)


def spoilt_inside(random, content, inner):
    """Likewise what lies below checksums, which are made right again."""
    if inner == "gzip":
        content = gzip.decompress(content)
        return gzip.compress(spoilt(random, content, [content]))
    if inner == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
            names = old.namelist()
            chosen = names[random.integers(len(names))]
            for name in names:
                part = old.read(name)
                new.writestr(name, spoilt(random, part, [part]) if name == chosen else part)
        return file.getvalue()
    chunks, place = [], 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append([content[place + 4 : place + 8], content[place + 8 : place + 8 + size]])
        place += size + 12
    chunk = chunks[random.integers(len(chunks))]
    if chunk[0] == b"IDAT" and random.random() < 0.5:
        pixels = zlib.decompress(chunk[1])
        chunk[1] = zlib.compress(spoilt(random, pixels, [pixels]))
    else:
        chunk[1] = spoilt(random, chunk[1], [chunk[1]])
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
