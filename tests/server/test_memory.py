"""Memory of large pictures: mapped for itself, so that it goes back when it is freed."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from server.memory import return_large_blocks

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd u f o d k".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
return_large_blocks()
del_me = bytearray(30 << 20)
del del_me  # teaches the C library, if it is left to itself, to keep blocks of up to 30 MiB
before = mallinfo().hblks
block = bytearray(8 << 20)
print(mallinfo().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
@pytest.mark.parametrize(("said", "mapped"), [({}, "1"), ({"MALLOC_MMAP_THRESHOLD_": "33554432"}, "0")])
def test_a_large_block_is_mapped_for_itself_unless_the_environment_says_otherwise(
    said: dict[str, str], mapped: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **said}, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (mapped, "")
