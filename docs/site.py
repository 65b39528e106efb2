"""What `make docs` does to the pages: README.md is the first one.

Links to files of the repository that are no pages lead nowhere on the site and become
plain text.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)]*)?\)")


def on_files(files, config):
    """Add README.md as index.md."""
    readme = Path(config.config_file_path).parent / "README.md"
    text = readme.read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Keep the links to pages; of the others the words."""

    def linked(match):
        words, target, anchor = match.groups()
        place = (Path(page.file.src_uri).parent / target).as_posix()
        known = files.get_file_from_path(place)
        return match.group(0) if known else words

    return _LINK.sub(linked, markdown)
