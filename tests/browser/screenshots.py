"""Pictures of every page of the dashboard, light and dark: `make screenshots`.

python -m tests.browser.screenshots [FOLDER]        # docs/screenshots
"""

from __future__ import annotations

import base64
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.browser.chromium import ARGUMENTS, executable
from tests.browser.scene import RUNAWAY, libraries_are_there, scene
from tests.support.gateway import ADMIN_TOKEN, Gateway

Scheme = Literal["light", "dark"]
Colours = npt.NDArray[Any]
FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
PAGES = {
    "now": "#/now",
    "runs": "#/runs",
    "run": f"#/runs/{RUNAWAY}",
    "spend": "#/spend",
    "guards": "#/guards",
    "policy": "#/policy",
    "approvals": "#/approvals",
    "audit": "#/audit",
}
WIDE = ViewportSize(width=1440, height=900)
PHONE = ViewportSize(width=390, height=844)


def main() -> int:
    """0 when every picture was taken."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    chromium = executable()
    if chromium is None or not libraries_are_there():
        print("Chromium and the dashboard's libraries are needed: make dev, then sh .ci/bootstrap.sh browser")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        scene(Path(scratch)) as gateway,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for scheme in get_args(Scheme):
            _pictures(browser, gateway, folder, scheme)
        browser.close()
    return 0


def _pictures(browser: Browser, gateway: Gateway, folder: Path, scheme: Scheme) -> None:
    for suffix, size in (("", WIDE), ("-phone", PHONE)):
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        page = context.new_page()
        log_in(page, gateway)
        for name, place in PAGES.items():
            if suffix and name not in ("now", "run"):
                continue
            page.goto(f"{gateway.url}/dashboard{place}")
            settle(page)
            (folder / f"{name}{suffix}-{scheme}.png").write_bytes(smaller(browser, page.screenshot()))
        context.close()


def log_in(page: Page, gateway: Gateway, token: str = ADMIN_TOKEN) -> None:
    """From the login page to Now."""
    page.goto(f"{gateway.url}/dashboard")
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Now", level=1).wait_for()


def settle(page: Page) -> None:
    """Until the page shows its data."""
    page.locator("main h1").first.wait_for()
    expect(page.locator(".skeleton")).to_have_count(0)
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(350)


# -- small files ---------------------------------------------------------------------------------------

_PIXELS = """async (data) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob());
  const canvas = new OffscreenCanvas(image.width, image.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const { data: pixels, width, height } = pen.getImageData(0, 0, image.width, image.height);
  let text = "";
  for (let at = 0; at < pixels.length; at += 32768) text += String.fromCharCode(...pixels.subarray(at, at + 32768));
  return [btoa(text), width, height];
}"""


def smaller(browser: Browser, png: bytes) -> bytes:
    """The picture in 256 colours, a third of the size; Chromium itself reads it."""
    page = browser.new_page()
    raw, width, height = page.evaluate(_PIXELS, base64.b64encode(png).decode())
    page.close()
    rgba = np.frombuffer(base64.b64decode(raw), np.uint8).reshape(height, width, 4).astype(np.uint32)
    packed = rgba[..., 0] << 16 | rgba[..., 1] << 8 | rgba[..., 2]
    colours, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
    channels = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.int32)
    palette = _palette(channels, counts)
    nearest = np.empty(len(channels), np.uint8)
    for start in range(0, len(channels), 4096):
        part = channels[start : start + 4096]
        nearest[start : start + 4096] = ((part[:, None] - palette[None]) ** 2).sum(axis=2).argmin(axis=1)
    rows = nearest[where.reshape(height, width)]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        + _chunk(b"IDAT", zlib.compress(lines, 9))
        + _chunk(b"IEND", b"")
    )


def _palette(channels: Colours, counts: Colours) -> Colours:
    """The commonest colours that are not too close to one that was taken already."""
    taken: list[Colours] = []
    for apart in (300, 60, 0):
        for index in np.argsort(-counts)[:4000]:
            colour = channels[index]
            if len(taken) == 256:
                break
            if not taken or ((np.array(taken) - colour) ** 2).sum(axis=1).min() > (
                apart if len(taken) > 24 else 0
            ):
                taken.append(colour)
    return np.array(taken)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    sys.exit(main())
