"""An answer's head and the first bytes of its body leave together; no byte is late for it, lost or moved."""

import asyncio

from danlu.serving.protocol import JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """What would be a system call each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []
        self.is_over = False

    def write(self, data) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.is_over = True

    def is_closing(self) -> bool:
        return self.is_over


def sent(deed) -> list[bytes]:
    """The calls that `deed(transport)` ends in, once it awaited what it wanted to."""

    async def run() -> list[bytes]:
        wire = Wire()
        await deed(JoiningTransport(wire, asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return wire.calls

    return asyncio.run(run())


def test_a_head_goes_out_with_the_body_that_follows_at_once():
    async def answer(transport: JoiningTransport) -> None:
        transport.write(HEAD)
        transport.write(b"ok")
        transport.write(b"more")

    assert sent(answer) == [HEAD + b"ok", b"more"]


def test_a_head_waits_for_no_body_that_takes_its_time():
    async def answer(transport: JoiningTransport) -> None:
        transport.write(HEAD)
        await asyncio.sleep(0.01)
        transport.write(b"ok")

    assert sent(answer) == [HEAD, b"ok"]


def test_to_go_on_with_a_body_is_said_before_the_body_can_come():
    async def answer(transport: JoiningTransport) -> None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert sent(answer) == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_a_head_alone_is_sent_before_the_connection_closes():
    async def answer(transport: JoiningTransport) -> None:
        transport.write(HEAD)
        transport.close()

    assert sent(answer) == [HEAD]


def test_an_empty_body_sends_the_head():
    async def answer(transport: JoiningTransport) -> None:
        transport.write(HEAD)
        transport.write(b"")
        transport.close()

    assert sent(answer) == [HEAD]


def test_a_connection_that_is_gone_is_told_nothing():
    async def answer(transport: JoiningTransport) -> None:
        transport.write(HEAD)
        transport._transport.close()  # the other side hung up

    assert sent(answer) == []
