"""Watches the place of the segment: published again under its name when somebody deleted or replaced the file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kfix_md.errors import KfixError

if TYPE_CHECKING:
    from kfix_md.shm.writer import SegmentWriter

log = logging.getLogger("kfix.feed")


class Place:
    """Keeps `segment` under its name; `check` is called with each heartbeat.

    Attributes
    ----------
    republished : int
        How often the file was lost and made again.
    alarm : str
        Why it cannot be made again, "" while it is in its place.
    """

    def __init__(self, segment: SegmentWriter) -> None:
        self.segment = segment
        self.republished = 0
        self.alarm = ""

    def check(self) -> None:
        """Publish the segment again if its file was displaced; what fails is tried again with the next call."""
        if not self.segment.displaced():
            self.alarm = ""
            return
        try:
            self.segment.republish()
        except KfixError as error:
            if str(error) != self.alarm:
                log.error(
                    "SHARED MEMORY: %s was deleted or replaced and cannot be published again: %s; "
                    "readers that are attached go on, no other can attach",
                    self.segment.path,
                    error,
                )
            self.alarm = str(error)
            return
        self.alarm = ""
        self.republished += 1
        log.error(
            "SHARED MEMORY: %s was deleted or replaced under this feed (a cleaner, or RemoveIPC of systemd-logind?); "
            "published again: readers with reconnect=True follow, others have to attach again",
            self.segment.path,
        )
