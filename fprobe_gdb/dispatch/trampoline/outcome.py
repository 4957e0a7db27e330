"""Why a run ends before its time: a handler asks for it, or something is raised."""

from __future__ import annotations

from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.target.base import Target, TargetState

__all__ = ["Outcome"]


class Outcome:
    """How the present run is going to end. The first exception wins, and leaves no fprobe behind."""

    def __init__(self, target: Target, core: ProbeCore) -> None:
        self._target = target
        self._core = core
        #: A handler has asked for the end.
        self.stop_requested = False
        #: What was raised first.
        self.failure: BaseException | None = None
        #: One of both: nothing more is to be handled.
        self.ends = False

    def begin(self) -> None:
        """A run begins."""
        self.stop_requested = False
        self.ends = self.failure is not None

    def stop(self) -> None:
        """A handler asks for the end of the run."""
        self.stop_requested = self.ends = True

    def fail(self, error: BaseException) -> None:
        """Something was raised: the run is to end with that, and without fprobes."""
        if self.failure is None:
            self.failure = error
        self.ends = True
        self._core.unregister_all()

    def fail_unless_gone(self, error: BaseException) -> None:
        """The same for what may come of a guest that is gone, in which nothing can be put in order any more.

        :raise BaseException: this very error, when it has.
        """
        if self._target.state not in (TargetState.STOPPED, TargetState.RUNNING):
            raise error
        self.fail(error)

    def take_failure(self) -> BaseException | None:
        """What was raised first, once."""
        failure, self.failure = self.failure, None
        return failure
