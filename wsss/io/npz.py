"""Files of arrays (.npz) that earlier stages wrote, read as untrusted files."""

import zipfile
from pathlib import Path

import numpy as np

from wsss.errors import raise_if_out_of_files
from wsss.io import mirror

MOST_BYTES = 2**31  # of a file's arrays; enough for a photo of 100 million pixels


def read_arrays(path: Path | str, **wanted: tuple[str, int]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, by name; nothing is unpickled.

    Args:
        wanted: name to the accepted ``dtype.kind`` letters, such as ``iu``, and the number of axes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything else that is wrong, in one line.
    """
    path = mirror.download_file(path)
    if not path.is_file() and path.exists():
        raise ValueError("not a plain file")
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MOST_BYTES:
                raise ValueError(f"it unpacks to {size:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in wanted}
                for array in found.values():
                    if not isinstance(array, np.ndarray):
                        raise ValueError("a member is not an array")
                    if array.dtype.kind == "U":
                        array.tolist()  # which raises for numbers beyond Unicode
    except (FileNotFoundError, ValueError):
        raise
    except KeyError as error:
        raise ValueError(f"{error.args[0]}") from None
    except Exception as error:  # zip and numpy raise many kinds for a damaged file
        raise_if_out_of_files(error)
        raise ValueError(f"{error or type(error).__name__}") from None
    for name, (kinds, dimensions) in wanted.items():
        array = found[name]
        if array.dtype.kind not in kinds or array.ndim != dimensions:
            raise ValueError(f"'{name}' is {array.dtype} of shape {array.shape}")
    return found
