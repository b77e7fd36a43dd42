"""Debian's Chromium without a window, driven by Playwright; and what a page must not do.

May touch: a headless Chromium out of .cache/.
Must never: download a browser, or let a page pass that wrote an error to its console.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from playwright.sync_api import sync_playwright

from tests.rig.debs import debs, libraries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    Scheme = Literal["light", "dark"]

# Without any font Chromium ends. Those of the machine come too, if it has some.
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
<match>
<edit name="family" mode="append" binding="strong"><string>DejaVu Sans</string></edit>
</match>
<dir>{root}/usr/share/fonts</dir>
<dir>/usr/share/fonts</dir>
<cachedir>{home}</cachedir>
</fontconfig>
"""
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, until the end."""
    root = debs("chromium-headless-shell", "fonts-dejavu-core")
    pulse = next(root.glob("usr/lib/*/pulseaudio"), root)  # a private folder of libpulse's
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        fonts = Path(home, "fonts.conf")
        fonts.write_text(_FONTS.format(root=root, home=home))
        browser = playwright.chromium.launch(
            executable_path=root / "usr/lib/chromium/chromium-headless-shell",
            chromium_sandbox=os.geteuid() != 0,  # Chromium's own refuses root
            env={
                "LD_LIBRARY_PATH": f"{libraries(root)}:{pulse}",
                "HOME": home,
                "FONTCONFIG_FILE": str(fonts),
                "PATH": "/usr/bin:/bin",
            },
        )
        yield browser
        browser.close()


@contextmanager
def looking(
    browser: Browser, url: str, scheme: Scheme = "light", width: int = 1280, *, silent: bool = True
) -> Iterator[Page]:
    """A page in a session of its own. With `silent` it must write no error to its console."""
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        reduced_motion="reduce",
        locale="en-GB",
    )
    context.set_default_timeout(60_000)
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda it: said.append(it.text) if it.type in {"error", "warning"} else None)
    page.goto(url)
    yield page
    context.close()
    assert not (said and silent), said


def axe(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds wrong with a page: the rule and the elements."""
    script = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate("tags => axe.run({runOnly: tags})", [*RULES])
    return [
        {"rule": it["id"], "nodes": [(one["target"], one["failureSummary"]) for one in it["nodes"]]}
        for it in found["violations"]
    ]
