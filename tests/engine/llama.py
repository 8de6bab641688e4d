"""The real llama.cpp server with a tiny model of random weights, for the demonstration and the tests.

Its answers make no sense; its way of answering is the real one.
"""

import argparse
import asyncio
import signal
import ssl
import sys

import gguf
import numpy as np
import xllamacpp

WIDTH, LAYERS, HEADS, FEED_FORWARD = 64, 2, 4, 128


def make_model(path, context):
    """Writes a LLaMA of about half a megabyte. The seed is fixed: it always is the same one."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    tokens = [b"<unk>", b"<s>", b"</s>"]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(256)]
    kinds += [gguf.TokenType.BYTE] * 256
    words = [f"\u2581{letter}".encode() for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens += words
    kinds += [gguf.TokenType.NORMAL] * len(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def tensor(name, *shape):
        writer.add_tensor(name, random.normal(0, 0.05, shape).astype(np.float32))

    def ones(name):
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    tensor("output.weight", len(tokens), WIDTH)
    ones("output_norm.weight")
    for layer in range(LAYERS):
        prefix = f"blk.{layer}"
        ones(f"{prefix}.attn_norm.weight")
        ones(f"{prefix}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"{prefix}.{part}.weight", WIDTH, WIDTH)
        tensor(f"{prefix}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        tensor(f"{prefix}.ffn_up.weight", FEED_FORWARD, WIDTH)
        tensor(f"{prefix}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(arguments):
    """Starts the engine."""
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.name}
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.n_ctx = arguments.context * arguments.slots
    params.n_parallel = arguments.slots
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.endpoint_metrics = True
    return xllamacpp.Server(params)


async def copy(reader, writer):
    """Carries bytes one way to their end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def end_tls(arguments):
    """Takes TLS off in front of the engine, which is built without it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.cert, arguments.key)

    async def connected(reader, writer):
        try:
            behind = await asyncio.open_connection(arguments.host, arguments.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer))

    return await asyncio.start_server(
        connected, arguments.host, arguments.tls_port, ssl=context
    )


async def run(arguments):
    """Serves until SIGTERM."""
    engine = serve(arguments)  # It ends when nothing refers to it any more.
    tls = await end_tls(arguments) if arguments.tls_port else None
    print(f"engine at {engine.listening_address}")
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    if tls:
        tls.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="where the model is written to")
    parser.add_argument("--host", required=True)
    parser.add_argument("--name", required=True, help="what answers call the model")
    parser.add_argument("--port", type=int, required=True, help="of plain HTTP")
    parser.add_argument("--slots", type=int, default=8, help="requests at once")
    parser.add_argument("--context", type=int, default=256, help="tokens of a request")
    parser.add_argument("--tls-port", type=int)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    make_model(arguments.model, arguments.context)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    sys.exit(main())
