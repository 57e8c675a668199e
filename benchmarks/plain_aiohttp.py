"""What does a proxy cost that is written in an afternoon with aiohttp? The baseline.

`python -m benchmarks.plain_aiohttp PORT WEIGHT:PORT …`: web.Application in front, one
ClientSession behind, bodies streamed.
"""

import argparse
import random

from aiohttp import ClientSession, TCPConnector, web

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host"}


def _target(text: str) -> tuple[int, int]:
    weight, colon, port = text.partition(":")
    if not (colon and weight.isdigit() and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WEIGHT:PORT, such as 9:8001")
    return int(weight), int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_aiohttp", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("targets", type=_target, nargs="+", metavar="WEIGHT:PORT")
    options = parser.parse_args()
    port = options.port
    weights = [weight for weight, _ in options.targets]
    targets = [f"http://127.0.0.1:{target}" for _, target in options.targets]

    async def forward(request: web.Request) -> web.StreamResponse:
        target = random.choices(targets, weights)[0]
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        async with request.app["session"].request(
            request.method,
            target + request.raw_path,
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    async def session(app: web.Application):
        app["session"] = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)
        yield
        await app["session"].close()

    app = web.Application(client_max_size=4 << 30)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{tail:.*}", forward)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
