"""Fails unless the server in this container answers. /health requires no API key."""

import os
import urllib.request

urllib.request.urlopen(f"http://127.0.0.1:{os.environ['LORAMUX_PORT']}/health", timeout=4).close()
