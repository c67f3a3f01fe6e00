from __future__ import annotations

import pytest

from tethercache.cli import main
from tethercache.policies import POLICIES


def test_every_policy_is_listed_with_its_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="0"):
        main(["policies"])
    listed = capsys.readouterr().out
    for name in POLICIES:
        assert name in listed
        assert all(key in listed for key in POLICIES.fields(name))


def test_the_shortest_spec_is_found() -> None:
    assert POLICIES.spec(POLICIES.parse("sink:sink=0")) == "fifo"
    assert POLICIES.spec(POLICIES.parse("tethercache:alpha=0.2")) == "tethercache:alpha=0.2"
