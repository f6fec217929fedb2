"""What the README and the pages of docs/ show."""

from __future__ import annotations

from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.glob("*.md")))


def blocks(guide: str, language: str) -> list[str]:
    """Return the blocks of code of a language, also those in lists."""
    return [token.content for token in MarkdownIt().parse(guide) if token.type == "fence" and token.info == language]
