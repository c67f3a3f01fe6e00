"""The queue on disk: order, pages, what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tethercache.request import VideoRequest
from tethercache.serve.desk import Desk, FullQueueError, Status

RED = VideoRequest("a red ball", seconds=2)


def test_videos_wait_in_their_order_and_are_there_after_a_crash(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    made = [desk.add(RED) for _ in range(5)]
    live = desk.add(RED, live=True)
    assert [desk.position(video) for video in made] == [0, 1, 2, 3, 4]
    assert desk.position(live) == 0
    desk.begin(made[0].id)
    again = Desk(tmp_path)  # the first is never closed
    assert [video.id for video in again.having(Status.IN_PROGRESS)] == [made[0].id]
    assert [v.id for v in again.waiting(live=False, limit=2)] == [made[1].id, made[2].id]
    assert again.get(made[3].id).request == RED
    assert again.position(again.get(made[1].id)) == 0


def test_pages_go_on_where_they_ended(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    names = [desk.add(RED).id for _ in range(5)]
    seen, after, more = [], None, True
    while more:
        page, more = desk.page(limit=2, after=after, ascending=True)
        seen += [video.id for video in page]
        after = seen[-1]
    assert seen == names
    assert [video.id for video in desk.page(limit=2)[0]] == names[:-3:-1]
    with pytest.raises(KeyError):
        desk.page(limit=2, after="video_none")


def test_a_full_queue_takes_no_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path, most=2)
    first = desk.add(RED)
    desk.add(RED)
    with pytest.raises(FullQueueError):
        desk.add(RED)
    desk.begin(first.id)
    desk.add(RED)


def test_a_deleted_video_is_gone_for_clients_until_its_files_are(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    video = desk.add(RED)
    desk.add_chunk(video.id, 0, {"index": 0}, chunks_made=1)
    desk.delete(video.id)
    with pytest.raises(KeyError):
        desk.get(video.id)
    desk.end(video.id)  # too late
    assert [left.id for left in desk.having(Status.DELETED)] == [video.id]
    desk.purge([video.id])
    assert not desk.having(Status.DELETED)
    assert desk.chunks(video.id, 0, 10) == ([], False)


def test_another_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    Desk(tmp_path).close()
    with sqlite3.connect(tmp_path / "queue.sqlite3") as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match="version 9"):
        Desk(tmp_path)
