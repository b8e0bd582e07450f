"""Who is at one cluster: clients that want a session, and sessions of the engine. Counting only; time is passed in."""


class Attendance:
    """The counts that pausing and freezing depend on."""

    def __init__(self, now_s: float) -> None:
        """Nobody is there from `now_s` on."""
        self.visitors = 0
        """Clients at the endpoint that have no session yet."""
        self.unseen = 0
        """Clients that got their session since the engine was looked at last."""
        self._sessions = 0
        self._idle_since_s = now_s

    @property
    def total(self) -> int:
        """Everybody, the engine's sessions as they were seen last."""
        return self.visitors + self.unseen + self._sessions

    def enter(self) -> None:
        """Count a visitor in."""
        self.visitors += 1

    def attach(self) -> None:
        """Note that a visitor has its session; it stays a visitor until it leaves."""
        self.unseen += 1

    def leave(self, now_s: float) -> bool:
        """Count a visitor out. Answer whether nobody is there any more."""
        self.visitors -= 1
        return self._is_idle_from(now_s)

    def see(self, sessions: int, *, unseen_before: int, now_s: float) -> bool:
        """Note the sessions that a look showed, before which `unseen` had that value. Answer whether the last has left.

        A client that was attached during the look may be among them or not, and stays unseen until the next.
        """
        had = self._sessions + unseen_before
        self.unseen -= unseen_before
        self._sessions = sessions
        return had > 0 and self._is_idle_from(now_s)

    def lose_engine(self, now_s: float) -> None:
        """Note that the engine is gone, and all sessions with it."""
        self.unseen = 0
        self._sessions = 0
        self._is_idle_from(now_s)

    def begin_idling(self, now_s: float) -> None:
        """Count the time without anybody anew."""
        self._idle_since_s = now_s

    def idle_s(self, now_s: float) -> float:
        """Answer how long nobody has been there; 0 while somebody is."""
        return 0.0 if self.total else now_s - self._idle_since_s

    def _is_idle_from(self, now_s: float) -> bool:
        if self.total:
            return False
        self._idle_since_s = now_s
        return True
