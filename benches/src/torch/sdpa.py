"""Times torch's scaled_dot_product_attention: argv[1] is a JSON list of shapes; one JSON line of results for each."""

import json
import math
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
SAMPLES = 20
SAMPLE_US = 300.0
LAUNCHES_MAX = 1000


def elapsed_us(work):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def measure(shape, backend):
    heads, kv_heads, dim = shape["n_heads"], shape["n_kv_heads"], shape["head_dim"]
    tokens, keys = shape["n_tokens"], shape["n_keys"]
    set_bytes = 2 * dim * (2 * heads * tokens + 2 * kv_heads * keys)
    n_sets = max(2, 2 * torch.cuda.get_device_properties(0).L2_cache_size // set_bytes + 1)

    def normal(n_heads, length):
        return torch.randn(1, n_heads, length, dim, device="cuda", dtype=torch.float16)

    sets = [(normal(heads, tokens), normal(kv_heads, keys), normal(kv_heads, keys)) for _ in range(n_sets)]
    # torch's mask begins at the first key: a single token that sees all keys needs none.
    options = {"is_causal": tokens == keys, "enable_gqa": heads != kv_heads}

    def run(n):
        for i in range(n):
            q, k, v = sets[i % n_sets]
            scaled_dot_product_attention(q, k, v, **options)

    with sdpa_kernel(BACKENDS[backend]):
        run(n_sets)
        torch.cuda.synchronize()
        launch_us = elapsed_us(lambda: run(3)) / 3
        n = 1 if launch_us >= 2000 else min(max(n_sets, math.ceil(SAMPLE_US / launch_us)), LAUNCHES_MAX)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(n)
        graph.replay()
        return [elapsed_us(graph.replay) / n for _ in range(SAMPLES)]


print(json.dumps({"version": torch.__version__}), flush=True)
for number, shape in enumerate(json.loads(sys.argv[1])):
    for backend in BACKENDS:
        result = {"number": number, "backend": backend}
        try:
            result["samples_us"] = measure(shape, backend)
        except Exception as error:
            result["error"] = str(error).strip().split("\n")[0][:200]
        torch.cuda.empty_cache()
        print(json.dumps(result), flush=True)
