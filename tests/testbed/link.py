"""`python -m tests.testbed.link FROM TO`: passes on each connection to a port of this machine, until it is frozen."""

import asyncio
import sys
from functools import partial


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:  # either end is gone
        pass
    finally:
        writer.close()


async def _connect(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there, back = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))


async def main(own: int, port: int) -> None:
    """Pass on until killed."""
    server = await asyncio.start_server(partial(_connect, port), "127.0.0.1", own)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
