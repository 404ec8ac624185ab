"""Master checkpoints that ship with the product."""

from pathlib import Path

from bitgear.errors import ModelNotFound

SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parent


def masters_in(folder: Path) -> list[Path]:
    """Return the files in ``folder`` that are masters by their name, sorted."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def shipped_masters() -> dict[str, Path]:
    """Return the shipped masters: name -> file."""
    return {path.name.removesuffix(SUFFIX): path for path in masters_in(SHIPPED)}


def find_master(name_or_path: str) -> Path:
    """Return the file of a shipped master's name, or the path itself if it names a file.

    Raises :class:`~bitgear.errors.ModelNotFound` with the names that exist.
    """
    shipped = shipped_masters()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise ModelNotFound(
        f"{name_or_path!r} is neither a file nor a shipped master; shipped are {', '.join(shipped) or 'none'}"
    )
