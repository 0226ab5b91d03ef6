"""One timed run of llama.cpp through llama-cpp-python's low-level API; prints one JSON object.

    python llama_run.py FILE.gguf --prompt 512 --generate 64 --threads 2
"""
import argparse
import json
import sys
from time import perf_counter

import llama_cpp

BATCH = 512
WARM_UP = 32


@llama_cpp.llama_log_callback
def _errors_only(level, text, _user_data):
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        sys.stderr.buffer.write(text)


class Stream:
    """A model and one sequence, from position 0."""

    def __init__(self, path, threads):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 2 * BATCH
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit(f"llama.cpp cannot make a context for {path}")
        self.vocab_len = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.position = 0

    def restart(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.position = 0

    def decode(self, count):
        """Reads `count` tokens in one batch and waits for the last one's logits."""
        batch = self.batch
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = (self.position + i) * 7919 % self.vocab_len
            batch.pos[i] = self.position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == count - 1
        start = perf_counter()
        if llama_cpp.llama_decode(self.context, batch) != 0:
            sys.exit(f"llama_decode failed at position {self.position}")
        llama_cpp.llama_synchronize(self.context)
        self.position += count
        return perf_counter() - start

    def feed(self, count):
        """Seconds for `count` tokens in batches."""
        return sum(self.decode(min(BATCH, count - start)) for start in range(0, count, BATCH))

    def generate(self, count):
        """Seconds for `count` tokens one by one."""
        return sum(self.decode(1) for _ in range(count))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    for name in ("prompt", "generate", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    llama_cpp.llama_log_set(_errors_only, None)
    llama_cpp.llama_backend_init()
    stream = Stream(args.file, args.threads)
    stream.feed(min(WARM_UP, args.prompt))
    stream.generate(WARM_UP)
    stream.restart()
    prefill, decode = stream.feed(args.prompt), stream.generate(args.generate)
    print(json.dumps({
        "prefill_tokens_per_s": args.prompt / prefill,
        "decode_tokens_per_s": args.generate / decode,
        "model_bytes": llama_cpp.llama_model_size(stream.model),
        "system": llama_cpp.llama_print_system_info().decode().strip(),
    }))


if __name__ == "__main__":
    main()
