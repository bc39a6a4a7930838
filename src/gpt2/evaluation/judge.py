"""A chat model as judge, with TinyStories' rubric (Eldan and Li, 2023, section 4), over any OpenAI-compatible API.

Only the standard library, and only if asked: nothing else here uses the network.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2.errors import DataError, UserError

CRITERIA = ("grammar", "creativity", "consistency")

_PROMPT = """The following is a story written by a student. The exercise tests the student's language and imagination.

Story:
\"\"\"
{story}
\"\"\"

Grade the story from 1 (worst) to 10 (best) in terms of grammar, of creativity, and of consistency: whether the story \
hangs together from its beginning to its end. Be strict and fair. Answer with one line of JSON and nothing else:
{{"grammar": <1-10>, "creativity": <1-10>, "consistency": <1-10>}}"""

_EXAMPLE = "Once upon a time there was a little dog named Max. He lost his ball. A kind girl found it, and they played."

_ATTEMPTS = 4
_WAIT_SECONDS = 0.5
_AGAIN = (408, 409, 429, 500, 502, 503, 504)
_PATIENCE = 5  # answers without grades, at the beginning, after which a model is none that can judge


@dataclass(frozen=True)
class Judge:
    """A chat model behind an OpenAI-compatible API.

    Raises:
        UserError: the address is none of the web.
    """

    address: str
    """Base address, such as http://localhost:8000/v1."""
    model: str
    """Its name there."""
    key: str | None = None
    """Sent as a bearer token."""
    timeout: float = 120.0
    """Seconds for an answer."""

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise UserError(f"the judge's address must begin with http:// or https://, got {self.address!r}")

    def try_out(self) -> None:
        """Ask once about a story of two lines, so that a wrong address, name or key is told before longer work.

        Raises:
            UserError: as `answer`.
        """
        self.answer(_EXAMPLE)

    def grade(self, story: str) -> dict[str, float] | None:
        """Grades from 1 to 10 for each of `CRITERIA`; None: the answer held none.

        Raises:
            UserError: the API cannot be reached, refuses, or answers in another protocol.
        """
        return _grades(self.answer(story))

    def answer(self, story: str) -> str:
        """What the judge says of a story, as it stands.

        Raises:
            UserError: the API cannot be reached, refuses, or answers in another protocol.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _PROMPT.format(story=story)}],
            "temperature": 0,
        }
        answer = self._post("/chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"the judge at {self.address} does not answer as OpenAI's API does: {answer!r:.200}"
            ) from error

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.address.rstrip("/") + path
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}: {error.read().decode('utf-8', 'replace')[:200]}"
                if error.code not in _AGAIN:
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
                problem = str(getattr(error, "reason", error))
            if attempt < _ATTEMPTS:
                time.sleep(_WAIT_SECONDS * 2**attempt)
        raise UserError(
            f"the judge at {url} gives no answer: {problem}; check --judge, --judge-model and $GPT2_JUDGE_KEY"
        )


def compare_with_real(judge: Judge, stories: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
    """Mean grades of a model's stories and of as many real ones.

    Raises:
        UserError: the judge gives no answer.
        DataError: none of its answers holds grades; it is not asked all before that is said.
    """
    texts_of = {"model": stories, "held_out": held_out[: len(stories)]}
    graded = {name: _graded(judge, texts) for name, texts in texts_of.items()}
    means = {name: {c: float(np.mean([g[c] for g in grades])) for c in CRITERIA} for name, grades in graded.items()}
    asked = sum(map(len, texts_of.values()))
    return {"judge": judge.model, "asked": asked, "graded": sum(map(len, graded.values())), **means}


def _graded(judge: Judge, texts: Sequence[str]) -> list[dict[str, float]]:
    """The grades of those texts that got some."""
    found: list[dict[str, float]] = []
    for asked, text in enumerate(texts, 1):
        answer = judge.answer(text)
        grades = _grades(answer)
        if grades is not None:
            found.append(grades)
        elif not found and asked in (_PATIENCE, len(texts)):
            raise DataError(
                f"none of {asked} answers of the judge {judge.model} held grades from 1 to 10; the last: "
                f"{' '.join(answer.split())[:100]!r}; name a chat model that follows instructions: --judge-model"
            )
    return found


def _grades(answer: str) -> dict[str, float] | None:
    """The first JSON object of an answer that has all grades in range."""
    for text in re.findall(r"\{[^{}]*\}", answer):
        try:
            found = {criterion: float(json.loads(text)[criterion]) for criterion in CRITERIA}
        except (ValueError, KeyError, TypeError):
            continue
        if all(1 <= value <= 10 for value in found.values()):
            return found
    return None
