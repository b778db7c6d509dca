"""The broker of a project with one process."""

from __future__ import annotations

from ..messages import Envelope
from .base import BrokerBase


class MemoryBroker(BrokerBase):
    """Carries nothing: the streams of the sender's own process are served without a broker."""

    reaches_other_processes = False
    is_lossy = False

    def publish(self, envelope: Envelope, *, wait: bool = False) -> None:
        """Do nothing."""
