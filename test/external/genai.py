"""Generates greedily with onnxruntime-genai: genai.py DIR < requests. A request is {"ids", "count"}, a line each."""

import json
import sys

import onnxruntime_genai as og

model = og.Model(sys.argv[1])
for line in sys.stdin:
    request = json.loads(line)
    ids, count = request["ids"], request["count"]
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(ids) + count, batch_size=1)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    print(json.dumps([int(i) for i in generator.get_sequence(0)][len(ids) :]), flush=True)
