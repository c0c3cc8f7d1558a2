"""grpcio on both sides of a product, for http2: `serve PORT`, and `call PORT NAME unary|bidi AT_ONCE COUNT`.

Owns: the one service, which echoes bytes, and refuses calls without a bearer token.
Called by: http2, with the product's Python, which has grpcio; the rest of this folder needs the standard library alone.
May not: be measured.
"""

import asyncio
import json
import sys

import grpc

SERVICE = "bench.Echo"
MESSAGE = b"0123456789abcdef" * 16


async def unary(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """The same back."""
    await check(context)
    return message


async def bidi(messages: object, context: grpc.aio.ServicerContext) -> object:
    """Each back at once."""
    await check(context)
    async for message in messages:  # type: ignore[attr-defined]  # grpcio has no types
        yield message


async def check(context: grpc.aio.ServicerContext) -> None:
    """A proxy that forwards without a token must not look fast."""
    if not dict(context.invocation_metadata()).get("authorization", "").startswith("Bearer "):
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no bearer token")


async def serve(port: int) -> None:
    """Until it is killed."""
    server = grpc.aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def call(port: int, name: str, kind: str, at_once: int, count: int) -> int:
    """How many were answered: all of them, or an error is raised."""
    options = [("grpc.default_authority", name), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        await channel.channel_ready()
        if kind == "unary":
            method = channel.unary_unary(f"/{SERVICE}/Unary")
            await asyncio.gather(*(worker(method, count // at_once) for _ in range(at_once)))
            return count // at_once * at_once
        stream = channel.stream_stream(f"/{SERVICE}/Bidi")()
        for _ in range(count):
            await stream.write(MESSAGE)
            assert await stream.read() == MESSAGE
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        return count


async def worker(method: grpc.aio.UnaryUnaryMultiCallable, count: int) -> None:
    """One call after the other."""
    for _ in range(count):
        assert await method(MESSAGE) == MESSAGE


def main() -> None:
    """As the command line says."""
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        port, name, kind, at_once, count = sys.argv[2:]
        print(json.dumps({"done": asyncio.run(call(int(port), name, kind, int(at_once), int(count)))}))


if __name__ == "__main__":
    main()
