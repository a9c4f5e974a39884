"""The site of docs/ and the README: links and anchors are valid, and nothing is loaded from other servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site. Broken links and anchors are among the warnings that fail the build."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", str(folder)]
    # There is no such proxy, so that any network access fails.
    environ = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    built = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    warnings = [line for line in built.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert (built.returncode, warnings) == (0, []), built.stderr
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """The first page's menu links to all others, although properdocs.yml does not list them."""
    menu = (site / "index.html").read_text(encoding="utf-8").partition('role="main"')[0]
    pages = [page.stem for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert pages
    assert [page for page in pages if f'href="{page}.html"' not in menu] == []


def test_nothing_is_loaded_from_other_servers(site: Path) -> None:
    """The site loads no scripts, styles, fonts or images from other servers."""
    markup = "".join(page.read_text(encoding="utf-8") for page in site.glob("*.html"))
    loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"([^\"]*)|<link[^>]*\bhref=\"([^\"]*)", markup)
    assert loaded
    assert [url for urls in loaded for url in urls if re.match(r"(?:https?:)?//", url)] == []


def test_links_of_the_readme() -> None:
    """The README's links to files in this repository, and to anchors in them, are valid."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+)(?:#([^)]*))?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert targets
    assert [path for path, _ in targets if not (ROOT / path).exists()] == []
    assert [target for target in targets if target[1] and target[1] not in anchors(ROOT / target[0])] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and the site generate for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
