"""Connections that have nothing to do, for which the compiled lane listens instead of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stat7store.server._lane import Lane
    from stat7store.server.connection import Connection


class Parking:
    """Those of one worker; the event loop is told when any of them says something."""

    def __init__(self, lane: Lane) -> None:
        """Begin to listen. Needs the running event loop."""
        self._lane = lane
        asyncio.get_running_loop().add_reader(lane, lane.turn)

    def close(self) -> None:
        """Listen to nobody any more."""
        asyncio.get_running_loop().remove_reader(self._lane)

    def park(self, connection: Connection) -> bool:
        """Listen for what a connection asks next; tell whether that can be."""
        try:
            self._lane.park(connection, connection.socket_number)
        except OSError:
            return False
        return True

    def unpark(self, connection: Connection) -> float:
        """Listen for it no more; return when it was last answered, in seconds of the event loop's clock."""
        used = self.last_use(connection)
        self._lane.unpark(connection.socket_number)
        return used

    def last_use(self, connection: Connection) -> float:
        """Return when a parked connection was last answered or was parked, in seconds of the event loop's clock."""
        return self._lane.heard(connection.socket_number) / 1e9
