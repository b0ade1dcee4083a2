"""Names that follow from content."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
