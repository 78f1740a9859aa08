"""Measured costs of input and output tokens, per base and machine, in the database."""

from dataclasses import dataclass

import sqlalchemy as sa

from loramux_server.metering.cost_allocation import WEIGHT_UNITS, Weights
from loramux_server.metering.ledger.repository import store_errors, upsert
from loramux_server.metering.ledger.tables import calibrations


@dataclass(frozen=True)
class Calibration:
    """Engine seconds per input token and per output token with concurrent requests, measured at a Unix time."""

    at: float
    prefill_seconds: float
    decode_seconds: float
    lowest: float
    """Lowest ratio of decode to prefill between the rounds of the measurement."""
    highest: float

    @property
    def decode_weight(self) -> float:
        """The work of an output token, in input tokens."""
        return self.decode_seconds / self.prefill_seconds

    @property
    def weights(self) -> Weights:
        """The measured weights, for the allocation of the engine's cost."""
        return Weights(WEIGHT_UNITS, max(1, round(self.decode_weight * WEIGHT_UNITS)))


class Calibrations:
    """Reads and writes the newest calibration of one base on one machine; blocks on the database.

    Raises:
        StoreError: the database can't be read or written.
    """

    def __init__(self, database: sa.Engine, base: str, machine: str) -> None:
        self._database, self._key = database, {"base": base[:255], "machine": machine[:255]}

    def newest(self) -> Calibration | None:
        """Return the calibration, None if there is none yet."""
        table = calibrations.c
        query = sa.select(table.at, table.prefill_seconds, table.decode_seconds, table.lowest, table.highest)
        with store_errors("The calibration can't be read from the database."), self._database.connect() as connection:
            found = connection.execute(
                query.where(*(table[name] == value for name, value in self._key.items()))
            ).first()
        return Calibration(*found) if found else None

    def save(self, calibration: Calibration) -> None:
        """Replace the calibration."""
        with store_errors("The calibration can't be written to the database."), self._database.begin() as connection:
            upsert(connection, calibrations, [self._key | vars(calibration)])
