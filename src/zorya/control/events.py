"""The kinds of event. Numbers below 1000 are those of RDS events with the same meaning; the others are our own."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class _Kind:
    number: int
    category: str
    meaning: str


class EventKind(Enum):
    """What can happen to a cluster. Each event's message adds why."""

    CREATED = _Kind(170, "creation", "The cluster was created.")
    DELETED = _Kind(171, "deletion", "The cluster was deleted.")
    PAUSING = _Kind(144, "notification", "The cluster is being paused.")
    PAUSED = _Kind(145, "notification", "The cluster is paused.")
    PAUSE_CANCELED = _Kind(146, "notification", "The pause was canceled.")
    RESUMING = _Kind(147, "notification", "The cluster is being resumed.")
    RESUMED = _Kind(148, "notification", "The cluster is resumed.")
    SCALING = _Kind(141, "scaling", "The cluster is being scaled.")
    SCALED = _Kind(142, "scaling", "The cluster has scaled.")
    SCALE_FAILED = _Kind(143, "failure", "The cluster failed to scale.")
    SCALED_UNEVENLY = _Kind(149, "scaling", "The cluster has scaled, but scaling wasn't seamless.")
    FAILOVER_FAILED = _Kind(69, "failure", "The failover failed.")
    FAILED_OVER = _Kind(71, "failover", "The failover is complete.")
    FAILOVER_BEGUN = _Kind(73, "failover", "A failover has begun.")
    CREATE_FAILED = _Kind(1001, "failure", "The cluster could not be created; nothing of it was kept.")
    RESUME_FAILED = _Kind(1002, "failure", "The cluster could not be resumed.")
    ENGINE_LOST = _Kind(1003, "failure", "The engine ended without being asked to.")
    TAKEN_OVER = _Kind(1004, "notification", "Zorya started and found the engine running.")
    STOP_FORCED = _Kind(1005, "failure", "The engine did not stop in time and was stopped by force.")
    ENDPOINT_FAILED = _Kind(1006, "failure", "The endpoint cannot listen.")
    ENDPOINT_RESTORED = _Kind(1007, "notification", "The endpoint listens again.")
    FROZEN = _Kind(1008, "sleep", "The cluster is frozen.")
    THAWED = _Kind(1009, "sleep", "The cluster is thawed.")
    PASSWORD_CHANGED = _Kind(16, "configuration change", "The cluster has a new password.")
    MODIFIED = _Kind(1010, "configuration change", "The cluster was modified.")
    LOGINS_FAILED = _Kind(1011, "security", "Many logins fail.")
    NODE_FULL = _Kind(1012, "failure", "The cluster wants more capacity than is left on this host.")
    NODE_HAS_ROOM = _Kind(1013, "notification", "The cluster has the capacity that it wants again.")
    OUT_OF_MEMORY = _Kind(1014, "failure", "The kernel ended a process of the engine for want of memory.")
    COPIES_COMPARED = _Kind(1020, "volume", "The volume's copies are at rest.")
    VOLUME_WHOLE = _Kind(1021, "volume", "The volume has all its copies.")
    VOLUME_DEGRADED = _Kind(1022, "failure", "The volume is degraded; writes go on.")
    COMMITS_WAIT = _Kind(1023, "failure", "Too few copies are left: commits wait.")
    COPY_LOST = _Kind(1024, "failure", "A copy of the volume is lost.")
    COPY_REBUILT = _Kind(1025, "volume", "A copy of the volume was made anew.")
    DAMAGE_FOUND = _Kind(1026, "failure", "A copy of the volume is damaged.")
    VERIFIED = _Kind(1027, "volume", "The volume was verified.")
    DATA_LOSS_ACCEPTED = _Kind(1028, "failure", "The cluster goes on from what was left.")

    @property
    def id(self) -> str:
        """The kind's name for people and programs, such as ZORYA-EVENT-0148."""
        return f"ZORYA-EVENT-{self.value.number:04}"

    @property
    def category(self) -> str:
        """One of creation, deletion, configuration change, notification, security, failover, failure,
        volume, scaling, sleep.

        Those of scaling and sleep come by the thousand.
        """
        return self.value.category

    @property
    def meaning(self) -> str:
        """What has happened, as a sentence."""
        return self.value.meaning
