"""What a server is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from tethercache.arguments import positive, whole_number


@dataclass(frozen=True)
class Options:
    """The flags of `tethercache serve`.

    Attributes:
        folder: where videos, records, snapshots and the queue are kept.
        models: which are made with; the first is the default.
        host: where to listen.
        port: the same; 0: any that is free.
        token: what clients must show; None: nothing.
        active: how many videos are made in turn; as many live ones again.
        max_seconds: the longest video.
        max_queue: how many may wait.
        allowed_hosts: further names by which clients may call the server.

    Raises:
        ValueError: naming the argument, the rule and the value.
    """

    folder: Path
    models: tuple[str, ...] = ("tiny",)
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    active: int = 2
    max_seconds: float = 3600.0
    max_queue: int = 20_000
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole_number("port", self.port, 0, 65535)
        whole_number("active", self.active, 1, 64)
        whole_number("max_queue", self.max_queue, 1, 1_000_000)
        positive("max_seconds", self.max_seconds)
        if self.token is not None and not self.token.strip():
            raise ValueError("`token` must not be empty")
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"`host` ({self.host}) can be reached by others, so it needs a `token`: --token, "
                "or TETHERCACHE_TOKEN in the environment"
            )

    @property
    def model(self) -> str:
        """The default one."""
        return self.models[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
