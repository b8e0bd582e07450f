"""Who is at one cluster: clients that want a session, and sessions of the engine. Counting only; time is passed in."""

FORK_S = 0.05
"""How long an engine may take from having a client to there being a process for it, which a look would see."""


class Attendance:
    """The counts that pausing and freezing depend on."""

    def __init__(self, now_s: float) -> None:
        """Nobody is there from `now_s` on."""
        self.visitors = 0
        """Clients at the endpoint that have no session yet."""
        self.unseen = 0
        """Clients that got their session since the engine was looked at last."""
        self.arrivals = 0
        """Visitors that have come, those that have left again among them."""
        self._sessions = 0
        self._attached_at_s = now_s
        self._idle_since_s = now_s

    @property
    def total(self) -> int:
        """Everybody, the engine's sessions as they were seen last."""
        return self.visitors + self.unseen + self._sessions

    def enter(self) -> None:
        """Count a visitor in."""
        self.visitors += 1
        self.arrivals += 1

    def attach(self, now_s: float) -> None:
        """Note that a visitor has its session; it stays a visitor until it leaves."""
        self.unseen += 1
        self._attached_at_s = now_s

    def is_unsettled(self, now_s: float) -> bool:
        """Whether a client was attached so shortly ago that a look that begins now might not show it."""
        return self.unseen > 0 and now_s - self._attached_at_s < FORK_S

    def seen_by_look_at(self, now_s: float) -> int:
        """Answer how many of the unseen a look that begins now would show, if they are still there then."""
        return 0 if self.is_unsettled(now_s) else self.unseen

    def leave(self, now_s: float) -> bool:
        """Count a visitor out. Answer whether nobody is there any more."""
        self.visitors -= 1
        return self._is_idle_from(now_s)

    def see(self, sessions: int, *, of_unseen: int, now_s: float) -> bool:
        """Note the sessions that a look showed. Answer whether the last has left.

        `of_unseen` is what `seen_by_look_at` answered when it began. A client that was attached later may be among the
        sessions or not, and stays unseen until the next look.
        """
        had = self._sessions + of_unseen
        self.unseen -= of_unseen
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
