"""A small run, its server on a socket, and a browser that reaches nothing else."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route

import gpt2
from gpt2.serving.app import create_app
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, with snapshots, metrics and samples."""
    folder = tmp_path_factory.mktemp("page") / "tiny"
    gpt2.train(
        [], out=str(folder), steps=12, fraction=0.05, vocab_size=512, context_length=64, d_model=32, num_layers=2,
        num_heads=2, batch_size=4, evals=2, snapshots=4, compile="off", dtype="float32", progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def served(run_folder: Path) -> ServedModel:
    return ServedModel.load(str(run_folder), "cpu")


@pytest.fixture(scope="session")
def address(served: ServedModel) -> Iterator[str]:
    """A real server on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(served, ServeSettings(port=port)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


def until(page: Page, condition: str, seconds: float = 20.0) -> None:
    """Wait for a condition in JavaScript; the page's own policy forbids Playwright's way of waiting for one."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(25)


class Visit:
    """A page in the browser, and what it should not have done."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.refusals = False
        """Whether the server may refuse what is asked here; the browser logs each refusal."""
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self._allow)

    def _allow(self, route: Route) -> None:
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def go(self, place: str) -> Page:
        """Open a view and wait until all that was asked is there."""
        self.page.goto(f"{self.address}/{place}")
        return self.settle()

    def settle(self) -> Page:
        self.page.wait_for_selector("#title")
        until(self.page, "document.querySelector('[aria-busy=true]') === null")
        return self.page


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Visit]]:
    """Opens a page of a given size and colours; afterwards nothing may have gone wrong or outside."""
    visits: list[Visit] = []

    def open_page(**options: Any) -> Visit:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        visits.append(Visit(context.new_page(), address))
        return visits[-1]

    yield open_page
    for item in visits:
        item.page.context.close()
    assert [item.errors for item in visits if item.errors and not item.refusals] == []
    assert [item.outside for item in visits if item.outside] == []
