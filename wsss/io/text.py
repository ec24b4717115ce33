"""Text files as people write them, of bounded size, and tables in which any name is text."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.errors import InputError, one_line, raise_if_out_of_files
from wsss.io import mirror

if TYPE_CHECKING:  # slow to import
    import pandas as pd

MOST_BYTES = 2**24  # 16 MiB: an id list of half a million photos
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs


def read_bytes(path: Path | str, what: str, *, most: int = MOST_BYTES) -> bytes:
    """The contents of a file; ``what`` names them in messages, such as ``an id list``. Raises
    InputError if it is missing, not a plain file, unreadable, or larger than ``most`` bytes.
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
    """The text of a file in UTF-8, with or without a byte order mark; arguments and errors as for
    ``read_bytes``, and InputError for anything else and for NUL bytes.
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


def check_characters(text: str, where: object) -> str:
    """The text, or InputError for a NUL or half of a surrogate pair, which neither paths nor files
    in UTF-8 can hold; escapes in YAML and JSON make them.
    """
    if found := UNWRITABLE.search(text):
        raise InputError(f"{where}: expected text but it contains {found[0]!r}; take that out")
    return text


def markdown_text(value: object) -> str:
    """A value, converted by ``str``, as Markdown on one line that shows its characters."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", one_line(value)).replace("<", "&lt;")
    return re.sub(r"[\\`*|$]|~(?=~)|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def markdown_table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """A Markdown table; cells are made by ``markdown_text``."""
    lines = [[markdown_text(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv_table(frame: "pd.DataFrame") -> str:
    """A frame as CSV without its index, texts on one line. What spreadsheet programs would compute
    as a formula gets an apostrophe in front, their mark of a text.
    """

    def cell(value):
        if not isinstance(value, str):
            return value
        return f"'{one_line(value)}" if value.startswith(("=", "+", "-", "@")) else one_line(value)

    return frame.rename(columns=cell).map(cell).to_csv(index=False)
