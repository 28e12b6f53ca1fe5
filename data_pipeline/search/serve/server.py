"""Runs the service: on loopback by default, elsewhere only with a token."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..gallery import PersonGallery
from .addresses import LOOPBACK, accepted_hosts, bound_socket, is_loopback
from .app import create_app

_SHORTEST_TOKEN = 16  # characters
_LAST_SECONDS = 10  # for running requests when the service ends


@contextmanager
def serve_gallery(
    gallery: PersonGallery, host: str = LOOPBACK, port: int = 0, token: str | None = None
) -> Iterator[str]:
    """Serves the API of a gallery until the context ends; yields its address.

    Args:
        host: name or IP address of the network interface.
        port: TCP port; 0 for a free one.
        token: bearer token of each request; required unless `host` is loopback.

    Raises:
        ValueError: the token is missing or too short.
        OSError: the port is in use or reserved.
    """
    if token is None and not is_loopback(host):
        raise ValueError(f"access to personal images on {host} requires a token: give --token, or set BDAM_TOKEN")
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise ValueError(
            f"the token has less than {_SHORTEST_TOKEN} characters: make one by "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    with bound_socket(host, port) as listening:
        app = create_app(gallery, token, accepted_hosts(host))
        options: dict[str, Any] = {"ws": "none", "lifespan": "off", "timeout_graceful_shutdown": _LAST_SECONDS}
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            name = f"[{host}]" if ":" in host else host
            yield f"http://{name}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
