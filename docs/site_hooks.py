"""The site also holds the pages at the root of the repository: results, CONTRIBUTING, SECURITY,
CHANGELOG.

Links in the sources are those of the repository, so that they work there; here they become links
within the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parent.parent
OUTSIDE = ("results/*.md", "results/*.png", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)([^)\s]*\))")


def on_files(files: Files, config: Any) -> Files:
    for pattern in OUTSIDE:
        for path in sorted(PROJECT.glob(pattern)):
            name = path.relative_to(PROJECT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    return _LINK.sub(lambda link: link[1] + in_site(link[2], page.file.src_uri) + link[3], markdown)


def in_site(link: str, page: str) -> str:
    """A repository link, as it is seen from a page of the site."""
    outside = page.startswith("results/") or page in OUTSIDE
    source = page if outside else f"docs/{page}"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target == "README.md":
        target = "docs/index.md"
    elif target.startswith("properties/"):
        target = "docs/settings.md"
    target = target.removeprefix("docs/")
    return posixpath.relpath(target, posixpath.dirname(page) or ".")
