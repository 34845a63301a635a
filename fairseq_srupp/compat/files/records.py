"""Whether the bytes of a checkpoint are those that were saved.

torch writes a checkpoint as a zip archive with a checksum (CRC-32) of each record, and does not look at it when it
reads: a flipped bit gives other weights, without a word. May go when torch.load checks it.

The format before torch 1.6 (`_use_new_zipfile_serialization=False`) has no checksums: damage of its tensors cannot be
seen. Nor can a file be read that was saved after `torch.serialization.set_crc32_options(False)`.
"""

import concurrent.futures
import os
import zipfile
from typing import BinaryIO, List, Optional

_START = b"PK\x03\x04"  # by which torch tells its two formats apart
_CHUNK = 1 << 20


def damage(path: str) -> Optional[str]:
    """What is wrong with the bytes of a file of torch.save, naming the record; None where nothing is.

    Reads all of it: 1 to 2 GB/s on a core, several records at the same time on several.

    Raises: OSError when the file cannot be opened.
    """
    with open(path, "rb") as file:
        found = _damage_in(file, path)
        replaced = found is not None and os.fstat(file.fileno()).st_ino != os.stat(path).st_ino
    return damage(path) if replaced else found  # a run has just saved: the readers below have read two files


def _damage_in(file: BinaryIO, path: str) -> Optional[str]:
    if file.read(len(_START)) != _START:
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
        if sum(record.compress_size for record in records) > os.path.getsize(path):  # each would be read
            return "its records stand in one another"
        places = sorted(range(len(records)), key=lambda place: records[place].header_offset)
        workers = _workers()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda some: _damage_of(path, some), (places[i::workers] for i in range(workers)))
            return next(filter(None, found), None)
    except Exception as error:  # whatever a damaged directory makes of its reader
        return f"its directory of records cannot be read: {error}"


def _workers() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _damage_of(path: str, places: List[int]) -> Optional[str]:
    """Of the records at these places of the directory, through a reader of its own: one cannot serve several threads."""
    with zipfile.ZipFile(path) as archive:
        for place in places:
            record = archive.infolist()[place]
            if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
                return f"its record {record.filename} is not stored as torch.save does"
            try:
                with archive.open(record) as content:
                    while content.read(_CHUNK):
                        pass
            except Exception as error:  # the checksum, or a header that leads elsewhere
                return f"its record {record.filename} is damaged ({error or type(error).__name__})"
    return None
