"""What documents point to is there: files, headings, and the paths that the map of the code names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST = [ROOT / "README.md", ROOT / "clients/python/README.md", ROOT / "benchmarks/README.md"]
DOCUMENTS = [*FIRST, *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
PATH = re.compile(r"`([a-z_]+(?:/[\w.-]+)*/?)`")


def prose(document: Path) -> str:
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(prose(document)):
        file = (document.parent / target).resolve() if target else document
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), f"{target}#{anchor} is no heading"


def test_the_map_of_the_code_names_what_there_is() -> None:
    paths = [path for path in PATH.findall(prose(ROOT / "docs/architecture.md")) if "/" in path]
    assert len(paths) > 50
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_map_of_the_code_has_every_folder_of_code() -> None:
    text = prose(ROOT / "docs/architecture.md")
    for package in ("bitgear", "server", "trainer"):
        folders = {path.parent.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert all(f"`{folder}/`" in text for folder in folders)
