"""`/dashboard`: base and adapters on one screen, for people."""

from loramux_server.api.dashboard.page import dashboard_router

__all__ = ["dashboard_router"]
