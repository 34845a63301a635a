"""Archives of models, for `from_pretrained("model.tar.gz")`.

fairseq (0.12) unpacks whatever path an archive names, so that it can write anywhere; puts the folder in the place of
the archive, which it removes; and goes on without a path when there is no such folder or archive. Here an archive is
unpacked into a folder of its own in fairseq's cache ($PYTORCH_FAIRSEQ_CACHE, ~/.cache/torch/pytorch_fairseq), once, and
stays what it is. Only files and folders within it are taken. May go when fairseq does this.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from lzma import LZMAError

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

logger = logging.getLogger(__name__)


def unpacked(archive: str, cache: str) -> str:
    """The folder in `cache` with the content of an archive; of its only folder, where all is in one.

    Raises: UserError when it is no archive, is damaged, or holds anything but files and folders within itself; nothing
    of it is left then.
    """
    status = os.stat(archive)
    key = repr((os.path.realpath(archive), status.st_size, status.st_mtime_ns))
    folder = os.path.join(cache, f"unpacked-{hashlib.sha256(key.encode()).hexdigest()[:32]}")
    if not os.path.isdir(folder):
        os.makedirs(cache, mode=0o700, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix="unfinished-", dir=cache)
        try:
            logger.info("unpacking %s", archive)
            _unpack(archive, unfinished)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    names = os.listdir(folder)
    only = os.path.join(folder, names[0]) if len(names) == 1 else folder
    return only if os.path.isdir(only) else folder


def _unpack(archive: str, folder: str) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"{archive}: unpack it yourself; Python does it safely from 3.10.12 and 3.11.4 on")
    try:
        with tarfile.open(archive) as content:
            needed = 0
            for member in content:
                # Without links nothing can lead out of the folder, whatever Python's filter knows of them.
                if not (member.isreg() or member.isdir()):
                    raise UserError(f"refused to unpack {archive}: {member.name} is neither a file nor a folder")
                needed += member.size
            if needed > shutil.disk_usage(folder).free:
                raise UserError(f"no space in {os.path.dirname(folder)} for the {needed:,} bytes in {archive}")
            content.extractall(folder, filter="data")
            while content.fileobj.read(1 << 20):  # gzip's checksum stands at the end
                pass
    except tarfile.FilterError as error:
        raise UserError(f"refused to unpack {archive}: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, ValueError, OSError) as error:
        raise UserError(f"cannot unpack {archive}: it is no archive (tar), or damaged ({error})") from error


def apply() -> None:
    from fairseq import file_utils

    @wrap(file_utils, "load_archive_file")
    def load_archive_file(original, archive_file):
        try:
            path = file_utils.cached_path(archive_file, cache_dir=None)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"no such folder or archive: {archive_file} ({error})") from error
        if os.path.isdir(path):
            return path
        if not os.path.isfile(path):
            raise UserError(f"no such folder or archive: {archive_file}")
        return unpacked(path, str(file_utils.PYTORCH_FAIRSEQ_CACHE))
