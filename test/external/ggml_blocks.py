"""Writes test/data/ggml/blocks.json: random blocks of each ggml format, and what llama.cpp's own Python package makes of
them. Needs gguf (recorded with 0.19.0) and numpy. Run it as: python3 test/external/ggml_blocks.py > test/data/ggml/blocks.json
"""

import base64
import json

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

blocks = 6
random = np.random.default_rng(2026)
# Where the half-precision scales lie in a block of each format.
halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
out = {}
for name, places in halves.items():
    elements, size = GGML_QUANT_SIZES[Type[name]]
    data = random.integers(0, 256, (blocks, size), dtype=np.uint8)
    for at in places:
        scales = (random.standard_normal(blocks) * 0.01).astype(np.float16)
        scales[0] = np.float16(6e-8)  # subnormal
        data[:, at : at + 2] = scales.view(np.uint8).reshape(blocks, 2)
    values = dequantize(data.reshape(1, -1), Type[name]).astype(np.float32)
    encode = lambda a: base64.b64encode(a.tobytes()).decode()
    out[name.lower()] = {"bytes": encode(data), "values": encode(values)}
print(json.dumps(out, indent=1))
