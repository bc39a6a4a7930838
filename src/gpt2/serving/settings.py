"""How the server listens, and what it allows. No torch and no FastAPI here: `gpt2 serve --help` reads this file."""

import ipaddress
from dataclasses import dataclass

from gpt2.errors import ConfigError


@dataclass(frozen=True)
class ServeSettings:
    """Address, access and bounds of `gpt2 serve`.

    Raises:
        ConfigError: a value out of range.
    """

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --api-key."""
    port: int = 8000
    """Port; 0 takes a free one, which is printed."""
    api_key: str | None = None
    """Key that every request must bring (Authorization: Bearer ...); also read from $GPT2_API_KEY."""
    allowed_host: tuple[str, ...] = ()
    """Further names under which clients may address the server; localhost and the address always may."""
    allowed_origin: tuple[str, ...] = ()
    """Web pages of other origins that may use the API, such as http://localhost:3000; none by default."""
    slots: int = 16
    """Streams computed at the same time."""
    queue: int = 32
    """Requests that may wait for a slot; more get status 429."""
    max_choices: int = 64
    """Most continuations of one request: prompts times n."""
    time_limit: float = 120.0
    """Seconds after which a request ends with what it has."""
    patience: float = 5.0
    """Seconds a client may take for its headers, for its body, and to read on."""
    max_body: int = 2**20
    """Bytes of a request's body."""
    max_connections: int = 1024
    """Open connections; further ones are closed at once."""
    grace: float = 30.0
    """Seconds that running requests have to finish after SIGTERM or Ctrl-C."""
    threads: int | None = None
    """Processor threads of the model; none: all. A small model uses one for few streams, more for many."""

    def __post_init__(self) -> None:
        for name in ("slots", "max_choices", "max_body", "max_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.queue < 0 or not 0 <= self.port <= 65535:
            raise ConfigError(f"queue must be 0 or more and port 0 to 65535, got {self.queue} and {self.port}")
        for name in ("time_limit", "patience", "grace"):
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError(f"{name} must be above 0, in seconds, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be 1 or more, got {self.threads}")
        if self.api_key is not None and (not self.api_key.isascii() or not self.api_key.strip()):
            raise ConfigError("the api_key must be plain ASCII and not empty")

    def require_key(self) -> None:
        """Refuse an address that others can reach, if there is no key.

        Raises:
            ConfigError: it is one.
        """
        if not self.is_loopback and self.api_key is None:
            raise ConfigError(
                f"on {self.host} other machines can reach the server: give --api-key (or $GPT2_API_KEY), "
                f"or listen on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
