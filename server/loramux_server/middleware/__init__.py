"""What surrounds every request, whichever handler serves it."""
