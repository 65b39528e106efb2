"""The frame of every page: one HTML file that needs nothing but itself."""

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from areal_cppo import __version__
from areal_cppo.report.markup import text
from areal_cppo.report.stylesheet import CSS, SCRIPT

PACKAGES = ("torch", "areal", "sglang", "transformers")
# Whatever a page shows, it cannot ask any network for anything.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def page_html(title: str, header: str, main: str, footer: str) -> str:
    """A whole page. `title` is plain text, the other parts are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(title)}</title><style>{CSS}</style></head>\n"
        f"<body>{header}\n<main>{main}</main>\n"
        f"<footer>{footer}</footer><script>{SCRIPT}</script></body></html>\n"
    )


def versions() -> str:
    """This package and those whose versions matter, as HTML text."""
    names = [f"Python {python_version()}"]
    names += [f"{package} {_version(package)}" for package in PACKAGES]
    return f"areal_cppo {text(__version__)}, {text(', '.join(names))}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
