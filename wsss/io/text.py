"""Text files as people have them: of a bounded size, in UTF-8, with a byte order mark or without.

What is no plain file is refused before it is opened: reading from a pipe would wait for ever.
"""

from wsss.errors import InputError
from wsss.io import mirror

MOST_BYTES = 2**24  # 16 MiB: an id list of half a million photos


def read_bytes(path, what, *, most=MOST_BYTES):
    """The contents of a small file.

    Args:
        path: the file.
        what: is expected in it, for messages, such as ``an id list``.
        most: bytes.

    Raises:
        InputError: missing, no file, not to be read, or larger.
    """
    local = mirror.download_file(path)
    try:
        if not local.is_file():
            found = "it is no plain file" if local.exists() else "there is no such file"
            found = "it is a folder" if local.is_dir() else found
            raise InputError(f"{path}: expected {what} but {found}; check the path")
        with local.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(
            f"{path}: expected {what} but it cannot be read ({error.strerror}); mend that"
        ) from None
    if len(content) > most:
        raise InputError(f"{path}: expected {what} of at most {most:,} bytes; make it smaller")
    return content


def read_text(path, what, *, most=MOST_BYTES):
    """The text of a small file; arguments as for ``read_bytes``.

    Raises:
        InputError: as ``read_bytes``, or it is not UTF-8 or holds NUL bytes.
    """
    content = read_bytes(path, what, most=most)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected {what} in UTF-8 but byte {error.start} is none; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(
            f"{path}: expected {what} but it holds NUL bytes, as UTF-16 and binary files do; save "
            "it as UTF-8"
        )
    return text
