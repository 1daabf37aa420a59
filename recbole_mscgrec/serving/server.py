"""Runs the service on a socket until it is stopped.

This module needs the extra packages of `recbole-mscgrec[serve]`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from logging import getLogger

import uvicorn

from recbole_mscgrec.serving.service import Service
from recbole_mscgrec.storage.errors import UserError

_BACKLOG = 2048  # maximum number of connections that wait to be accepted


def listener(host: str, port: int) -> socket.socket:
    """A socket bound to this address. Clients can connect only when `run` listens on it.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Name the protocol: asyncio sets TCP_NODELAY only on such sockets. Without it, every answer
        # on an open connection takes 40 ms longer.
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # reuse the port of a service that has just ended
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise _unusable(f"{host} port {port}", error) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a bound socket, with the actual port if port 0 was asked for."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Running:
    """A service that listens on its socket and answers in a thread.

    Raises:
        UserError: another program has started to listen on this address.
    """

    def __init__(self, service: Service, bound: socket.socket) -> None:
        try:
            bound.listen(_BACKLOG)
        except OSError as error:
            raise _unusable(address_of(bound), error) from error
        self._service = service
        self._server = uvicorn.Server(
            uvicorn.Config(
                service.app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                backlog=_BACKLOG,
                # Requests end by their own timeouts, one for the body and one for the answer.
                timeout_graceful_shutdown=int(2 * service.timeout) + 5,
            )
        )
        # Not Thread.join: up to Python 3.12, Ctrl-C during it marks the thread as ended.
        self._ended = threading.Event()
        # Outside the main thread, uvicorn installs no signal handlers.
        threading.Thread(target=self._serve, args=(bound,), name="http", daemon=True).start()

    def _serve(self, bound: socket.socket) -> None:
        try:
            self._server.run(sockets=[bound])
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait until the server has ended."""
        while not self._ended.wait(0.2):  # not every system interrupts a wait without a timeout
            pass

    def stop(self) -> None:
        """Accept no new requests, and return when those in progress are answered."""
        self._service.stopping = True
        self._server.should_exit = True
        self.wait()
        self._service.batcher.close()


def run(service: Service, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C. The command line turns SIGTERM into Ctrl-C as well.

    Args:
        ready: called when clients can connect.

    Raises:
        UserError: another program has started to listen on this address.
        KeyboardInterrupt: a second Ctrl-C, which ends the service at once.
    """
    running = Running(service, bound)
    try:
        ready()
        running.wait()
    except KeyboardInterrupt:
        getLogger().info("Stopping after the requests in progress. Ctrl-C again stops at once.")
        running.stop()
    else:
        raise RuntimeError("The HTTP server ended by itself.")


def _unusable(place: str, error: Exception) -> UserError:
    return UserError(
        f"Cannot listen on {place}: {getattr(error, 'strerror', None) or error}. Give another "
        "--port or --host, or stop the program that listens there."
    )
