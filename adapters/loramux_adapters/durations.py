"""Durations as text."""


def format_duration(seconds: float) -> str:
    """Return an estimated duration without false precision: `less than a minute`, `about 13 min`, `about 2.5 h`."""
    if seconds < 45:
        return "less than a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} h"
