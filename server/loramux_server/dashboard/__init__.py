"""`/dashboard`: base and adapters on one screen, for people."""

from loramux_server.dashboard.page import dashboard_router

__all__ = ["dashboard_router"]
