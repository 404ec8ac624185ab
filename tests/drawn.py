"""What docstrings draw."""

import re


def drawn_tree(docstring: str | None) -> dict[str, str]:
    """Return the parent of each class in the tree of errors that a docstring draws from ``BitgearError`` on."""
    stack: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in (docstring or "").splitlines():
        names = re.match(r"^(\s*[│├└─ ]*)([A-Z]\w+(?: / [A-Z]\w+)*)", line)
        if names is None or "──" not in line:
            if line.strip() == "BitgearError":
                stack = [(line.index("B"), "BitgearError")]
            continue
        depth = len(names.group(1))
        while stack[-1][0] >= depth:
            stack.pop()
        for name in names.group(2).split(" / "):
            drawn[name] = stack[-1][1]
        stack.append((depth, names.group(2).split(" / ")[0]))
    return drawn
