"""Network addresses of a server: loopback or not, accepted Host headers, a bound socket."""

import errno
import ipaddress
import socket
from contextlib import suppress

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server on `host`, a name or an IP address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def accepted_hosts(host: str) -> tuple[str, ...] | None:
    """Returns the accepted Host headers of a server on `host`: names of loopback, or None for any."""
    return (host, LOOPBACK, "localhost", "[::1]") if is_loopback(host) else None


def bound_socket(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 selects a free one. Raises `OSError` if the port cannot be used."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise OSError(f"port {port} of {host} {reason}: choose another with --port, or 0 for a free one") from None
