"""What is not there: a server that went and came back, a run that a model came without, tokens of another reading."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
import torch
import uvicorn

from gpt2 import GPT2
from gpt2.inspection import run
from gpt2.serving.app import create_app
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings
from tests.conftest import randomize
from tests.serving.page.conftest import Page, until

TEXT = "Once upon a time there was a little dog."
AWAY = "document.querySelector('[data-away]') !== null"
HERE = "document.querySelector('[data-away]') === null && document.querySelector('[aria-busy=true]') === null"


@contextmanager
def serving(model: ServedModel, port: int) -> Iterator[None]:
    """A server on this port until the block ends, which nobody hears of."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(model, ServeSettings(port=port)), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def other(served: ServedModel) -> ServedModel:
    """Another model of the same name and shape."""
    model = randomize(GPT2(served.model.config, generator=torch.Generator().manual_seed(3)), std=0.1).eval()
    return ServedModel(served.name, None, model, served.tokenizer, served.device)


def opened(visit: Callable, port: int, view: str) -> Page:
    """A page whose server will go: the browser logs each question that is not answered."""
    item = visit()
    item.refusals = True
    item.address = f"http://127.0.0.1:{port}"
    return item.go(f"#{view}?{urlencode({'text': TEXT})}")


def loss_of(model: ServedModel, text: str = TEXT) -> str:
    return f"{run(model.model, model.tokenizer, text).loss:.4f}"


def test_what_was_asked_meanwhile_is_answered_when_the_server_is_back(
    visit: Callable, served: ServedModel, other: ServedModel, port: int
) -> None:
    with serving(served, port):
        page = opened(visit, port, "surprise")
        assert page.locator("[data-nats]").inner_text() == loss_of(served)
    page.get_by_role("button", name="Edit text").click()
    page.get_by_role("textbox", name="Text").fill("The cat saw a bird.")
    page.get_by_role("button", name="Done").click()
    until(page, AWAY)
    assert "gpt2 serve still running" in page.locator("[data-away]").inner_text()
    assert page.locator("[role=alert]").count() == 1, "it is said once"
    assert page.locator("[data-nats]").inner_text() == loss_of(served), "what is known stays"
    with serving(other, port):
        until(page, HERE)
        until(
            page,
            f"document.querySelector('[data-nats]').textContent === {json.dumps(loss_of(other, 'The cat saw a bird.'))}",
        )
        assert page.locator("[role=alert]").count() == 0


@pytest.mark.parametrize("view", ["heads", "switches", "words", "time", "live"])
def test_a_view_that_was_opened_meanwhile_is_there_when_the_server_is(
    visit: Callable, served: ServedModel, port: int, view: str
) -> None:
    with serving(served, port):
        page = opened(visit, port, "write")
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator(f'nav a[href="#{view}"]').click()
    until(page, AWAY)
    with serving(served, port):
        until(page, HERE)
        until(page, "document.querySelectorAll('main [data-check]').length === 1")
        until(page, HERE)
        assert page.locator("[role=alert]").count() == 0
        if view == "heads":
            assert page.locator("[data-matrix]").count() == 1


def test_a_server_that_was_exchanged_while_nobody_asked_is_noticed(
    visit: Callable, served: ServedModel, other: ServedModel, port: int
) -> None:
    with serving(served, port):
        page = opened(visit, port, "surprise")
        page.wait_for_timeout(1500)  # the other views' answers come ahead, of the first model
    with serving(other, port):
        page.get_by_role("link", name="Write").click()
        page.get_by_role("button", name="Write", exact=True).click()
        page.get_by_role("button", name="Write on").wait_for()
        page.get_by_role("button", name="Clear").click()
        page.get_by_role("link", name="Surprise").click()
        until(page, f"document.querySelector('[data-nats]')?.textContent === {json.dumps(loss_of(other))}")
        until(page, HERE)


def test_a_story_that_breaks_off_keeps_what_came(visit: Callable, served: ServedModel, port: int) -> None:
    with serving(served, port):
        page = opened(visit, port, "write")
    page.get_by_role("button", name="Write", exact=True).click()
    until(page, AWAY)
    assert TEXT in page.locator("[role=listbox]").inner_text()
    with serving(served, port):
        until(page, HERE)
        until(page, "document.querySelectorAll('[role=alert]').length === 0")
        page.get_by_role("button", name="Write", exact=True).click()
        page.get_by_role("button", name="Write on").wait_for()


def test_a_model_without_a_run_says_what_is_missing(visit: Callable, other: ServedModel, port: int) -> None:
    with serving(other, port):
        item = visit()
        item.address = f"http://127.0.0.1:{port}"
        for view in ("time", "live"):
            page = item.go(f"#{view}")
            assert "without the" in page.locator("[data-empty]").inner_text(), view
            assert page.locator("[role=alert]").count() == 0
            assert page.locator("[data-python]").count() == 0, "nothing to print"
        assert page.locator("[data-scrubber]").count() == 0


def test_a_text_that_is_read_in_other_tokens_than_it_was_drawn_in_is_not_called_wrong(
    visit: Callable, other: ServedModel, port: int
) -> None:
    """Random weights draw tokens that spell a text another way than the tokenizer does."""
    with serving(other, port):
        item = visit()
        item.address = f"http://127.0.0.1:{port}"
        page = item.go(f"#write?{urlencode({'text': TEXT, 't': 2, 'n': 40})}")
        page.get_by_role("button", name="Write", exact=True).click()
        page.get_by_role("button", name="Write on").wait_for()
        item.settle()
        check = page.locator("[data-check]").inner_text()
        assert "✓" in check
        assert "stream" not in check
