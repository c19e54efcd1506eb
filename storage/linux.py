"""The Linux system calls that Python has no name for, and what an ``OSError`` means to a caller."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from struct import Struct

from storage.base import BlobNoSpace, BlobUnavailable, BlobUnreadable

# The numbers are the same on every architecture that these calls came to.
_OPENAT2 = 437
_CACHESTAT = 451
_RESOLVE_CACHED = 0x20
_WAIT_BEFORE = 1
_WRITE = 2
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2
_KEEP_SIZE = 1  # linux/falloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_BROKEN = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)  # a bad sector, a bad inode, a bad checksum
_RANGE = Struct("=QQ")  # linux/mman.h: struct cachestat_range
_PAGES = ctypes.c_uint64 * 5  # linux/mman.h: struct cachestat

# A named pipe left in a blob's place must not make open wait for a writer.
READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class Linux:
    """The calls, found in the C library once. One object may serve any number of threads."""

    def __init__(self) -> None:
        waiting = ctypes.CDLL(None, use_errno=True)
        # The calls that never wait keep the GIL: giving it up would cost more than the call itself.
        prompt = ctypes.PyDLL(None, use_errno=True)
        self._openat2 = prompt["syscall"]
        self._openat2.restype = ctypes.c_long
        self._openat2.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
        self._cachestat = prompt["syscall"]
        self._cachestat.restype = ctypes.c_long
        self._cachestat.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint]
        self._syncfs = waiting["syncfs"]
        self._syncfs.argtypes = [ctypes.c_int]
        self._sync_file_range = waiting["sync_file_range"]
        self._sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        self._how = (ctypes.c_uint64 * 3)(READ_ONLY, 0, _RESOLVE_CACHED)

    def open_cached(self, folder: int, path: str) -> int | None:
        """Open a file for reading if that takes no disk access (``openat2`` with ``RESOLVE_CACHED``).

        Returns None if it might take one, or if anything else is amiss: an ordinary open will tell.
        Raises ``FileNotFoundError`` if the kernel knows that there is no such file.
        """
        file: int = self._openat2(_OPENAT2, folder, path.encode(), self._how, ctypes.sizeof(self._how))
        if file >= 0:
            return file
        if ctypes.get_errno() == errno.ENOENT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return None

    def is_resident(self, file: int, start: int, length: int) -> bool:
        """Whether all of these bytes are in the page cache; False if the kernel cannot tell (before 6.5)."""
        return self._lacking(file, start, length) == 0

    def is_missing(self, file: int, start: int, length: int) -> bool:
        """Whether some of these bytes are not in the page cache; False if the kernel cannot tell (before 6.5)."""
        return (self._lacking(file, start, length) or 0) > 0

    def _lacking(self, file: int, start: int, length: int) -> int | None:
        """Return how many pages of these bytes are not in the page cache; None if the kernel cannot tell."""
        if length == 0:
            return 0
        pages = _PAGES()
        if self._cachestat(_CACHESTAT, file, _RANGE.pack(start, length), pages, 0) < 0:
            return None
        return (start + length - 1) // mmap.PAGESIZE - start // mmap.PAGESIZE + 1 - int(pages[0])

    def sync_filesystem(self, file: int) -> None:
        """Make everything on the filesystem of this open file durable (``syncfs``).

        Raises ``OSError`` also for a write that failed on that filesystem since the file was opened
        or last synced so (since Linux 5.8): keep the file open as long as that matters.
        """
        _raise_if_failed(self._syncfs(file), "syncfs")

    def start_writing(self, file: int, start: int, length: int) -> None:
        """Begin to write these bytes to disk; ``length`` 0 means to the end.

        Only saves time later: whether it can, or whether the writing succeeds, a sync must tell.
        """
        self._sync_file_range(file, start, length, _WRITE)

    def check_written(self, file: int) -> None:
        """Wait for writes in progress; raise ``OSError`` if one of this file has failed since it was opened."""
        _raise_if_failed(self._sync_file_range(file, 0, 0, _WAIT_BEFORE), "sync_file_range")


def filesystem_number(path: str) -> int:
    """Return the number of the type of the filesystem that a path is on (``statfs``; linux/magic.h).

    May raise ``OSError``.
    """
    facts = (ctypes.c_uint32 * 64)()  # larger than any struct statfs, which begins with the number
    _raise_if_failed(ctypes.CDLL(None, use_errno=True)["statfs"](os.fsencode(path), facts), "statfs")
    return int(facts[0])


def is_begun_in_memory(file: int) -> bool:
    """Whether the first page of a file is in the page cache (``mincore``).

    To who neither owns the file nor may write it the kernel always says so. May raise ``OSError``, and ``ValueError``
    for an empty file.
    """
    found = (ctypes.c_ubyte * 1)()
    with mmap.mmap(file, 1, access=mmap.ACCESS_COPY) as mapped:  # only what is writable has an address for ctypes
        address = ctypes.addressof(page := ctypes.c_char.from_buffer(mapped))
        result = ctypes.CDLL(None, use_errno=True)["mincore"](
            ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), found
        )
        del page  # or the mapping could not be closed
    _raise_if_failed(result, "mincore")
    return bool(found[0] & 1)


def exchange(one: str, other: str) -> None:
    """Give two files or folders each other's name, at once (``renameat2`` with ``RENAME_EXCHANGE``)."""
    renameat2 = ctypes.CDLL(None, use_errno=True)["renameat2"]
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    _raise_if_failed(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE), "renameat2")


def set_aside(file: int, start: int, length: int) -> None:
    """Have these bytes of a file on disk ready to be written, also beyond its end, which stays (``fallocate``).

    Raises ``OSError``, among others where the filesystem does not do that.
    """
    fallocate = ctypes.CDLL(None, use_errno=True)["fallocate"]
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    _raise_if_failed(fallocate(file, _KEEP_SIZE, start, length), "fallocate")


def give_back_large_blocks() -> None:
    """Have memory of 1 MiB and more go back to the system as soon as it is freed, in all of this process.

    Otherwise glibc keeps the buffers of each thread for its next ones. Other C libraries do as they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def keep_free_memory(size: int) -> None:
    """Have this process keep up to so many bytes (at most 32 MiB) that it frees, for its next ones.

    The kernel clears each page that it gives. glibc by itself gives back the end of its memory from 128 KiB on, and
    each block of that size. Other C libraries do as they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, size)
        mallopt(_M_MMAP_THRESHOLD, size)


def give_back_free_memory() -> None:
    """Have memory that was freed go back to the system, which glibc by itself does seldom. May take 20 ms."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def die_with(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent goes, however it goes (``prctl``).

    ``parent`` is the parent's id. If it went before that took hold, this process ends here.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def unavailable(error: OSError) -> BlobUnavailable:
    """Return what to raise to a caller of the backend, with ``error`` as its cause."""
    kind = BlobNoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else BlobUnavailable
    translated = kind(str(error))
    translated.__cause__ = error
    return translated


def unreadable(error: OSError) -> BlobUnavailable:
    """Return what to raise for ``error`` when a blob was to be read, with it as its cause."""
    # protection: tell-unreadable-from-unavailable
    if error.errno not in _BROKEN:
        return unavailable(error)
    translated = BlobUnreadable(str(error))
    translated.__cause__ = error
    return translated


def _raise_if_failed(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
