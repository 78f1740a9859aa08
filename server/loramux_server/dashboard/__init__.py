"""`/dashboard`: a web page with the base, the adapters and the jobs."""

from loramux_server.dashboard.page import dashboard_router

__all__ = ["dashboard_router"]
