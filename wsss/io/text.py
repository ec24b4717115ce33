"""Text files as people write them (bounded size, UTF-8, with or without a byte order mark), and
Markdown tables.
"""

from collections.abc import Iterable
from pathlib import Path

from wsss.errors import InputError, raise_if_out_of_files
from wsss.io import mirror

MOST_BYTES = 2**24  # 16 MiB: an id list of half a million photos


def read_bytes(path: Path | str, what: str, *, most: int = MOST_BYTES) -> bytes:
    """The contents of a file of at most ``most`` bytes.

    Args:
        what: names the expected contents in messages, such as ``an id list``.

    Raises:
        InputError: missing, not a plain file, unreadable, or larger.
    """
    local = mirror.download_file(path)
    try:
        if not local.is_file():  # reading from a pipe would wait forever
            found = "it is not a plain file" if local.exists() else "there is no such file"
            found = "it is a folder" if local.is_dir() else found
            raise InputError(f"{path}: expected {what} but {found}; check the path")
        with local.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise_if_out_of_files(error)
        fault = f"it cannot be read ({error.strerror}); fix that"
        raise InputError(f"{path}: expected {what} but {fault}") from None
    if len(content) > most:
        raise InputError(f"{path}: expected {what} of at most {most:,} bytes; make it smaller")
    return content


def read_text(path: Path | str, what: str, *, most: int = MOST_BYTES) -> str:
    """The text of a file; arguments and errors as for ``read_bytes``, and InputError for anything
    but UTF-8 and for NUL bytes.
    """
    try:
        text = read_bytes(path, what, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"in UTF-8 but it is not valid UTF-8 at byte {error.start}"
    else:
        if "\0" not in text:
            return text
        fault = "but it contains NUL bytes, as UTF-16 and binary files do"
    raise InputError(f"{path}: expected {what} {fault}; save it as UTF-8")


def markdown_table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """A Markdown table; cells are converted by ``str``."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
