"""Messages between processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stat7store.importer.channel import MOST_FILES, Channel


def test_a_message_arrives_whole_with_its_files(tmp_path: Path) -> None:
    """Messages arrive one by one, each as it was sent, and its files are open at the other end."""
    one, other = Channel.pair()
    (tmp_path / "file").write_bytes(b"content")
    file = os.open(tmp_path / "file", os.O_RDONLY)
    one.send(b"first", [file] * MOST_FILES)
    one.send(b"second" * 10_000)
    os.close(file)
    message, files = other.receive()
    assert (message, len(files)) == (b"first", MOST_FILES)
    assert os.pread(files[-1], 100, 0) == b"content"
    for received in files:
        assert not os.get_inheritable(received)
        os.close(received)
    assert other.receive() == (b"second" * 10_000, [])
    one.close()
    other.close()


def test_the_end_of_the_other_is_told() -> None:
    """Once the other end is closed, what it sent arrives, then nothing does, and nothing can be sent."""
    one, other = Channel.pair()
    one.send(b"last")
    one.close()
    assert other.receive() == (b"last", [])
    assert other.receive() == (b"", [])
    with pytest.raises(OSError, match="pipe"):
        other.send(b"too late")
    other.close()
