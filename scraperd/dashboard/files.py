"""The files of the page, and the headers by which a browser runs nothing else.

May touch: the files of the folder page/, once.
Must never: put a value into a file: what the page shows comes by its own requests.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Final

from scraperd.server.listener import Answer

FOLDER: Final = Path(__file__).parent / "page"
FILES: Final = {  # path: file, media type
    "/": ("index.html", "text/html"),
    "/dashboard/app.js": ("app.js", "text/javascript"),
    "/dashboard/style.css": ("style.css", "text/css"),
    "/dashboard/icon.svg": ("icon.svg", "image/svg+xml"),
    "/dashboard/uplot.js": ("uplot/uPlot.iife.min.js", "text/javascript"),
    "/dashboard/uplot.css": ("uplot/uPlot.min.css", "text/css"),
}
# No inline script or style, nothing from elsewhere, no frame around it, no form that is sent, and
# no text that becomes markup or a script (Trusted Types).
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def answers() -> dict[str, Answer]:
    """Return the answer of each path, read from the package."""
    return {
        path: Answer(
            HTTPStatus.OK, (FOLDER / name).read_bytes(), f"{media}; charset=utf-8", dict(HEADERS)
        )
        for path, (name, media) in FILES.items()
    }
