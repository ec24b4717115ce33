"""Text files as people write them (bounded size, UTF-8, with or without a byte order mark), and
Markdown tables.

Anything but a plain file is refused before it is opened: reading from a pipe would wait forever.
"""

from collections.abc import Iterable
from pathlib import Path

from wsss.errors import InputError
from wsss.io import mirror

MOST_BYTES = 2**24  # 16 MiB: an id list of half a million photos


def read_bytes(path: Path | str, what: str, *, most: int = MOST_BYTES) -> bytes:
    """The contents of a small file.

    Args:
        what: names the expected contents in messages, such as ``an id list``.
        most: bytes.

    Raises:
        InputError: missing, not a plain file, unreadable, or larger.
    """
    local = mirror.download_file(path)
    try:
        if not local.is_file():
            found = "it is not a plain file" if local.exists() else "there is no such file"
            found = "it is a folder" if local.is_dir() else found
            raise InputError(f"{path}: expected {what} but {found}; check the path")
        with local.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(
            f"{path}: expected {what} but it cannot be read ({error.strerror}); fix that"
        ) from None
    if len(content) > most:
        raise InputError(f"{path}: expected {what} of at most {most:,} bytes; make it smaller")
    return content


def read_text(path: Path | str, what: str, *, most: int = MOST_BYTES) -> str:
    """The text of a small file; arguments as for ``read_bytes``.

    Raises:
        InputError: as ``read_bytes``, or it is not UTF-8 or contains NUL bytes.
    """
    content = read_bytes(path, what, most=most)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected {what} in UTF-8 but it is not valid UTF-8 at byte {error.start}; "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(
            f"{path}: expected {what} but it contains NUL bytes, as UTF-16 and binary files do; "
            "save it as UTF-8"
        )
    return text


def markdown_table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """A Markdown table; cells are converted by ``str``."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
