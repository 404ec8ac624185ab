"""What large pictures take goes back to the system when they are done."""

import ctypes
import os
import platform

LARGE_BYTES = 4 << 20
"""From so many bytes on, a block of memory is mapped for itself."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def return_large_blocks() -> None:
    """Have the C library give blocks of :data:`LARGE_BYTES` and more back to the system when they are freed.

    By itself glibc raises that bound, up to 32 MiB, to the largest block that was ever freed; what is smaller than the
    bound it keeps, for each thread: some hundred megabytes after a few large pictures. Other C libraries are left as
    they are, and so is whoever says in the environment how memory is to be had.
    """
    told = any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"))
    if platform.libc_ver()[0] == "glibc" and not told:
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        # Twice as much, as glibc has it by itself; else it would trim from 128 KiB on, and pictures fault pages in.
        library.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)
