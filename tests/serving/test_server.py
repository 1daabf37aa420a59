"""The socket of the service."""

from __future__ import annotations

import socket

import pytest
from served import WalkModel, ask

from recbole_mscgrec.serving import server
from recbole_mscgrec.serving.batching import Batcher
from recbole_mscgrec.serving.bodies import Limits
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.service import Service
from recbole_mscgrec.storage.errors import UserError


def service_of(model: WalkModel) -> Service:
    batcher = Batcher(model, Metrics(), wait=0.0, max_batch=4, max_waiting=4)
    return Service(batcher, Metrics(), Limits(), timeout=5.0)


def test_a_port_in_use_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1 port {port}: Address"):
            server.listener("127.0.0.1", port)


def test_a_port_taken_while_the_model_was_loaded_is_refused() -> None:
    with server.listener("127.0.0.1", 0) as bound:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(bound.getsockname())
            other.listen()
            with pytest.raises(UserError, match="Cannot listen on http://127.0.0.1:"):
                server.Running(service_of(WalkModel()), bound)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UserError, match=f"Cannot listen on {host} port 0: "):
        server.listener(host, 0)


def test_clients_cannot_connect_before_the_service_is_ready() -> None:
    with server.listener("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionError):
            ask(port, "/health")
        running = server.Running(service_of(WalkModel()), bound)
        assert ask(port, "/health").status == 200
        running.stop()


def test_answers_are_sent_without_delay() -> None:
    """Else their two parts, head and body, wait for each other: 40 ms on Linux."""
    with server.listener("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY for this only


def test_addresses() -> None:
    with server.listener("localhost", 0) as bound:
        assert server.address_of(bound).startswith("http://")
    if socket.has_ipv6:
        try:
            with server.listener("::1", 0) as bound:
                assert server.address_of(bound).startswith("http://[::1]:")
        except UserError:  # a machine without an IPv6 address
            pass


def test_a_server_that_ends_by_itself_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: None)
    with server.listener("127.0.0.1", 0) as bound:
        with pytest.raises(RuntimeError, match="ended by itself"):
            server.run(service_of(WalkModel()), bound, lambda: None)
