"""A QUIC server by aioquic whose connection ids name it, as `steer cid config` says.

It begins each stream with its name and an end of line, and then gives back what it gets.
"""

import argparse
import asyncio
import json
import os

import aioquic.quic.connection
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration


class Ids:
    """Stands for the module os in aioquic, which takes its connection ids from os.urandom."""

    def __init__(self, config):
        self.rotation = config["rotation"]
        self.server_id = bytes.fromhex(config["server_id"])
        self.nonce = config["nonce_length"]
        self.length = 1 + len(self.server_id) + self.nonce
        # Other random bytes that aioquic asks for there: challenges and tokens for resets.
        assert self.length not in (8, 16), self.length

    def urandom(self, length):
        random = os.urandom(length)
        if length != self.length:
            return random
        first = self.rotation << 5 | random[0] & 0x1F
        return bytes([first]) + self.server_id + random[-self.nonce :]


async def echo(reader, writer, name):
    writer.write(name.encode() + b"\n")
    while piece := await reader.read(16384):
        writer.write(piece)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ids", required=True, help="what `steer cid config` prints")
    options = parser.parse_args()
    ids = Ids(json.loads(options.ids))
    aioquic.quic.connection.os = ids
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["steer-test"], connection_id_length=ids.length
    )
    configuration.load_cert_chain(options.cert, options.key)

    tasks = set()

    def handler(reader, writer):
        # The loop itself keeps no task alive.
        task = asyncio.ensure_future(echo(reader, writer, options.name))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await serve(
        options.address,
        options.port,
        configuration=configuration,
        stream_handler=handler,
    )
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main())
