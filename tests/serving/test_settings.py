"""What may be set, and what an address that others can reach needs."""

import pytest

from gpt2.cli import main
from gpt2.errors import ConfigError
from gpt2.serving.settings import ServeSettings


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_needs_no_key(host: str) -> None:
    ServeSettings(host=host).require_key()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        ServeSettings(host=host).require_key()
    ServeSettings(host=host, api_key="secret").require_key()


@pytest.mark.parametrize(
    "values",
    [{"slots": 0}, {"queue": -1}, {"port": 70000}, {"patience": 0.0}, {"time_limit": float("nan")}, {"api_key": " "},
     {"api_key": "schlüssel"}, {"threads": 0}, {"max_body": 0}],
)  # fmt: skip
def test_values_out_of_range_are_named(values: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        ServeSettings(**values)


def test_the_command_refuses_before_it_loads(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.delenv("GPT2_API_KEY", raising=False)
    assert main(["serve", "nowhere", "--host", "0.0.0.0"]) == 2
    assert "other machines can reach" in capsys.readouterr().err
    assert main(["serve", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
