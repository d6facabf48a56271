"""The child process that looks whether HDF5 comes back from files; :mod:`poyo_ssl_plugin.data.check` starts it.

A damaged file can make the HDF5 library loop for ever or crash, which no ``except`` catches. So one process goes
through all files, saying where it is, and can be stopped where it falls silent.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import h5py

# Arrays up to so many bytes are read whole, of others the first and last row.
_SMALL = 1 << 16


def main() -> None:
    """Read the files that standard input names, a line of output for each."""
    print("ready", flush=True)
    for path in json.load(sys.stdin):
        # Errors are the readers' to report.
        with suppress(Exception), h5py.File(path, "r") as file:
            _read(file, set())
        print("done", flush=True)


def _read(item: h5py.Group | h5py.Dataset, seen: set[int]) -> None:
    # A damaged file may contain itself.
    address = h5py.h5o.get_info(item.id).addr
    if address in seen:
        return
    seen.add(address)
    with suppress(Exception):
        for name in item.attrs:
            with suppress(Exception):
                item.attrs[name]
    if isinstance(item, h5py.Group):
        for name in item:
            with suppress(Exception):
                _read(item[name], seen)
    elif item.ndim == 0 or item.nbytes <= _SMALL:
        item[()]
    else:
        item[:1], item[-1:]


if __name__ == "__main__":
    main()
