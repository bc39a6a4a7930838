"""The judge against a server of its own that speaks OpenAI's protocol over real HTTP."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gpt2.cli import main
from gpt2.errors import DataError, UserError
from gpt2.evaluation import judge as judging
from gpt2.evaluation.judge import Judge, compare_with_real


class _Api(BaseHTTPRequestHandler):
    """Grades by the number of words; fails as often as it is told to, first."""

    def do_POST(self) -> None:
        server: Any = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append((self.path, self.headers.get("Authorization"), request))
        if server.failures:
            self._answer(server.failures.pop(0), {"error": {"message": "later"}})
            return
        story = request["messages"][0]["content"].split('"""')[1].strip()
        grade = min(10, len(story.split()))
        content = server.answer or f'Sure: {{"grammar": {grade}, "creativity": {grade / 2}, "consistency": 7}}'
        self._answer(200, {"choices": [{"message": {"role": "assistant", "content": content}}]})

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(judging, "_WAIT_SECONDS", 0.001)
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    server.requests, server.failures, server.answer = [], [], None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def address(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_grades_come_back_and_the_request_is_openais(api: Any) -> None:
    grades = Judge(address(api), "strict", "secret").grade("one two three four")
    assert grades == {"grammar": 4.0, "creativity": 2.0, "consistency": 7.0}
    path, authorization, request = api.requests[0]
    assert (path, authorization, request["model"], request["temperature"]) == (
        "/v1/chat/completions", "Bearer secret", "strict", 0,
    )  # fmt: skip
    assert "grammar" in request["messages"][0]["content"]


def test_the_model_is_set_beside_real_text(api: Any) -> None:
    found = compare_with_real(Judge(address(api), "j"), ["a b", "a b c d"], ["a b c d e", "a b c d e f g", "unused"])
    assert found["model"]["grammar"] == 3.0
    assert found["held_out"]["grammar"] == 6.0
    assert (found["asked"], found["graded"]) == (4, 4)


def test_it_tries_again_when_that_may_help_and_only_then(api: Any) -> None:
    api.failures = [429, 503]
    assert Judge(address(api), "j").grade("a b") is not None
    assert len(api.requests) == 3
    api.failures = [401]
    with pytest.raises(UserError, match=r"status 401.*GPT2_JUDGE_KEY"):
        Judge(address(api), "j").grade("a")
    assert len(api.requests) == 4


@pytest.mark.parametrize(
    "answer", ["no", '{"grammar": 11, "creativity": 3, "consistency": 3}', '{"grammar": 3}', "[1]"]
)
def test_answers_without_grades_do_not_count(api: Any, answer: str) -> None:
    api.answer = answer
    assert Judge(address(api), "j").grade("a") is None
    with pytest.raises(DataError, match=rf"none of 1 answers of the judge j .*{re.escape(answer[:5])}.*--judge-model"):
        compare_with_real(Judge(address(api), "j"), ["a"], ["b"])


def test_a_model_that_cannot_judge_is_not_asked_for_long(api: Any) -> None:
    api.answer = "Once upon\n a time"
    with pytest.raises(DataError, match=r"none of 5 answers.*the last: 'Once upon a time'"):
        compare_with_real(Judge(address(api), "j"), ["a"] * 64, ["b"] * 64)
    assert len(api.requests) == 5


def test_nobody_there_and_a_wrong_address(api: Any) -> None:
    with pytest.raises(UserError, match="gives no answer"):
        Judge("http://127.0.0.1:9/v1", "j").grade("a")
    with pytest.raises(UserError, match="http://"):
        Judge("file:///etc/passwd", "j")


def test_a_wrong_address_is_told_before_the_model_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "modles/mine", "no-text.txt", "--judge", "localhost:8000"]) == 2
    assert "must begin with http:// or https://, got 'localhost:8000'" in capsys.readouterr().err


def test_a_wrong_name_is_told_before_the_model_is_opened(api: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api.failures = [404]
    arguments = ["evaluate", "modles/mine", "no-text.txt", "--judge", address(api), "--judge-model", "jugde"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "status 404" in said
    assert "check --judge, --judge-model and $GPT2_JUDGE_KEY" in said
    ((_, _, request),) = api.requests
    assert request["model"] == "jugde"


def test_a_right_name_lets_the_work_begin(api: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "modles/mine", "no-text.txt", "--judge", address(api)]) == 2
    assert "modles/mine" in capsys.readouterr().err
    assert len(api.requests) == 1
