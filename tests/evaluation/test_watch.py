"""The watch on a stream goes on from a state as if it had never stopped."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.files import FPS
from tests.evaluation.scenes import frames
from tests.states import written_and_read
from tethercache.evaluation.watch import DriftWatch


def test_another_watch_goes_on_from_a_state() -> None:
    stream = np.stack(list(frames("brightness")))[::2]
    pieces = np.split(stream, [1, 13, 90])
    one = DriftWatch(FPS / 2)
    for piece in pieces:
        other = DriftWatch(FPS / 2)
        other.update(stream[:20])  # forgotten
        other.load_state_dict(written_and_read(one.state_dict()))
        for watch in (one, other):
            watch.update(piece)
        assert other.status() == one.status()
        assert other.changes() == one.changes()
        assert written_and_read(other.state_dict()).keys() == one.state_dict().keys()
    assert other.summary() == one.summary()
    assert one.summary()["verdict"] == "drifting"


def test_a_state_of_another_watch_is_refused() -> None:
    state = DriftWatch(16).state_dict()
    with pytest.raises(ValueError, match=r"`fps` is 16\.0 in it and 24\.0 here"):
        DriftWatch(24).load_state_dict(state)
    with pytest.raises(ValueError, match="`every` is 2 in it and 8 here"):
        DriftWatch(16, every=8).load_state_dict(state)
