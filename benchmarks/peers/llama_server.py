"""llama.cpp's own server with a slot for every stream: `python llama_server.py GGUF PORT SLOTS CONTEXT THREADS`.

Run by a Python that has `xllamacpp`: llama.cpp with its server as a library. No part of this project is needed.
"""

import signal
import sys

import xllamacpp


def main() -> None:
    """Serve until a signal."""
    path, port, slots, context, threads = sys.argv[1], *map(int, sys.argv[2:])
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port, params.hostnames = port, ["127.0.0.1"]
    params.n_parallel, params.cont_batching = slots, True
    params.n_ctx = slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    main()
