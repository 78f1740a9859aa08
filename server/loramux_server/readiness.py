"""Whether the engine is lost, and whether the server is ready for requests."""

from dataclasses import dataclass
from typing import Any

from loramux_server.engine.admission import EngineAdmission, EngineState
from loramux_server.errors import EngineDied
from loramux_server.middleware import DrainState


@dataclass(frozen=True)
class Readiness:
    """The state of a server, as /ready, the metrics and the shutdown need it."""

    engine: Any
    admission: EngineAdmission
    drain: DrainState

    def is_engine_dead(self) -> bool:
        """Whether the engine is lost, so that the server has to exit: it died, or it does not wake up."""
        return bool(self.engine.errored or self.admission.has_failed)

    def check(self) -> None:
        """Check that the engine may be used now.

        Raises:
            EngineDied: it is lost.
            EngineAsleep: it is asleep.
        """
        if self.is_engine_dead():
            raise EngineDied
        self.admission.check()

    def engine_state(self) -> str:
        """Return the state of the engine: one of EngineState."""
        return EngineState.FAILED if self.is_engine_dead() else self.admission.state

    def not_ready_reason(self) -> str | None:
        """Return why the server is not ready, as a message for clients; None if it is."""
        if self.drain.is_draining:
            return "The server is shutting down."
        if self.is_engine_dead():
            return "The engine is dead."
        return None if self.admission.is_awake else self.admission.refusal.message
