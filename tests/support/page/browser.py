"""A page of Debian's Chromium that keeps account of what must not happen: errors, and requests to elsewhere."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium")
_AXE = (Path(__file__).parent / "axe.min.js").read_text()
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_GRAVE = ("serious", "critical")


class Watched:
    """A page of the service at `url`. `mistakes`: what was found so far."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url.rstrip("/")
        self.mistakes: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.mistakes.append(f"error: {error}"))
        page.on("request", self._asked)

    def open(self, path: str) -> None:
        """`path` stands behind the #."""
        self.page.goto(f"{self.url}/#{path}")

    def accessibility(self) -> list[str]:
        """Serious findings of axe-core, of WCAG's levels A and AA."""
        self.page.evaluate(_AXE)
        found = self.page.evaluate("rules => axe.run(document, { runOnly: rules })", _RULES)
        return [
            f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in _GRAVE
        ]

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.mistakes.append(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.mistakes.append(f"asked elsewhere: {request.url}")


def wait_narrow(page: Any, pixels: int) -> None:
    """Waits, at most 30 s, until nothing is wider: charts follow the window a moment later."""
    page.wait_for_function("pixels => document.documentElement.scrollWidth <= pixels", arg=pixels)
