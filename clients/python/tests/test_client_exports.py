"""What ``import bitgear_client`` gives, and what it does not load."""

import subprocess
import sys
import types

import bitgear_client
from bitgear_client import errors, results


def test_all_is_sorted_and_complete():
    public = {
        name
        for name, value in vars(bitgear_client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert bitgear_client.__all__ == sorted(public | {"__version__"})


def test_every_error_and_result_is_exported():
    for module in (errors, results):
        defined = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        }
        assert defined <= set(bitgear_client.__all__)


def test_neither_numpy_nor_pillow_is_needed_to_import_it():
    script = "import sys, bitgear_client; print(*sorted({'numpy', 'PIL', 'bitgear', 'server'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
