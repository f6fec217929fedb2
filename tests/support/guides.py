"""What the pages of docs/ show."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

DOCS = Path(__file__).parents[2] / "docs"


def blocks(guide: str, language: str) -> list[str]:
    """Return the blocks of code of a language, also those in lists."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", guide, re.MULTILINE | re.DOTALL)
    return [dedent(block) for block in found]
