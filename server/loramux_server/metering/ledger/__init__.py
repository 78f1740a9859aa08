"""The ledger: one row a request, what was added up of them, and what is read from both."""

from loramux_server.metering.ledger.book import Book
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.writer import LedgerWriter, Limits, Observer

__all__ = ["Book", "LedgerReader", "LedgerWriter", "Limits", "Observer"]
