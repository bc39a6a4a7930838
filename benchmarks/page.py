"""Times of the page of `gpt2 serve`: `python -m benchmarks.page MODEL`: first load, opening views, the slider's frames.

In Chromium without a GPU, against a server of its own on this machine. The model is a run with snapshots.
"""

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from benchmarks.load import process

TEXT = "Once upon a time there was a little girl named Lily. She had a red ball. Her friend Tom wanted the ball too, so"
VIEWS = ("odds", "surprise", "heads", "head", "layers", "why", "switches", "words", "time", "live", "write")
MOVED = ("time", "heads", "head", "layers", "surprise")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_FRAME = """const frame = () => new Promise((done) => requestAnimationFrame(() => {
  const channel = new MessageChannel(); channel.port1.onmessage = done; channel.port2.postMessage(0); }));"""
"""Resolves when a frame has been painted."""

_FULL = "!document.querySelector('[aria-busy=true]') && document.querySelector('#title')"
_OPEN = f"""async (view) => {{ {_FRAME}
  const begin = performance.now();
  document.querySelector(`nav a[href="#${{view}}"]`).click();
  await frame(); const first = performance.now() - begin;
  while (!({_FULL})) await frame();
  return [first, performance.now() - begin]; }}"""
_WATCH = f"""(() => {{ {_FRAME}
  let full = false;
  new MutationObserver(async () => {{
    if (full === !!({_FULL}) || !(full = !full)) return;
    await frame(); if (full) globalThis.loaded = performance.now(); }})
  .observe(document, {{ subtree: true, childList: true, attributes: true, attributeFilter: ['aria-busy'] }}); }})()"""
"""Notes when the last answer was painted. Nothing else of the driver runs in the page until then: it takes as long."""
_LOADED = "[performance.getEntriesByName('first-contentful-paint')[0].startTime, globalThis.loaded]"
_SLIDE = f"""async (rest) => {{ {_FRAME}
  const slider = document.querySelector('[data-scrubber]'), times = [];
  for (let i = 0; i <= Number(slider.max); i++) {{
    await frame(); const begin = performance.now();
    slider.value = String(i); slider.dispatchEvent(new Event('input', {{ bubbles: true }}));
    await frame(); times.push(performance.now() - begin);
    if (rest) await new Promise((done) => setTimeout(done, rest));
  }}
  return times; }}"""


def visit(browser: Browser, address: str) -> tuple[Page, dict[str, tuple[float, float]]]:
    """A reader who comes for the first time and rests for a moment in each view: (first picture, all of it) in ms."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(_WATCH)
    page.goto(f"{address}/#write?{urlencode({'text': TEXT})}", wait_until="commit")
    time.sleep(4)
    times = {"first load": tuple(page.evaluate(_LOADED))}
    for view in VIEWS:
        if page.locator(f'nav a[href="#{view}"]').count():
            times[view] = tuple(page.evaluate(_OPEN, view))
            page.wait_for_timeout(700)
    return page, times


def frames(page: Page, session: CDPSession, view: str) -> str:
    """The slider from end to end, every moment's answers there already."""

    def spent() -> dict[str, float]:
        return {item["name"]: 1000 * item["value"] for item in session.send("Performance.getMetrics")["metrics"]}

    page.evaluate(_OPEN, view)
    page.wait_for_timeout(6000 if view == "time" else 500)  # the time machine fetches all moments by itself
    page.evaluate(_SLIDE, 250)
    wall: list[float] = []
    before = spent()
    for _ in range(3):
        wall += page.evaluate(_SLIDE, 0)
    after = spent()
    parts = {
        "TaskDuration": "",
        "ScriptDuration": " script",
        "RecalcStyleDuration": " style",
        "LayoutDuration": " layout",
    }
    told = ", ".join(f"{(after[name] - before[name]) / len(wall):.1f}{what}" for name, what in parts.items())
    late = sum(time > 32 for time in wall)
    return f"slider in {view}: {_spread(wall)} a frame, {late} of {len(wall)} over 32; main thread's time {told}"


def _spread(times: Sequence[float]) -> str:
    return f"median {statistics.median(times):.0f}, worst {max(times):.0f} ms"


def measure(browser: Browser, address: str, visits: int) -> None:
    """Print all of it."""
    rows: list[dict[str, Any]] = []
    for _ in range(visits):
        page, times = visit(browser, address)
        rows.append(times)
    for name in rows[0]:
        first, full = zip(*(row[name] for row in rows), strict=True)
        print(f"{name}: first picture {_spread(first)}; all of it {_spread(full)}", flush=True)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    for view in MOVED:
        print(frames(page, session, view), flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="models/demo", help="a run folder with snapshots")
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--port", type=int, default=9412)
    options = parser.parse_args()
    command = [sys.executable, "-m", "gpt2", "serve", options.model, "--port", str(options.port)]
    with process(command, options.port), sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, _BROWSERS)), playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        measure(browser, f"http://127.0.0.1:{options.port}", options.visits)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
