/**
 * Runs `jax.export` blobs for the process that started it. Both ways: a length of 4 bytes, so much JSON, and as many
 * bytes as that says in `bytes`.
 */
export const workerPy = `
import os, sys
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import json, struct, numpy as np, ml_dtypes, jax
import flatbuffers
from jax import export

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8, "u8": np.uint8, "bool": np.bool_}
source, sink = sys.stdin.buffer, sys.stdout.buffer
sys.stdout = sys.stderr
file, stored, placed, state, modules = {}, {}, {}, {}, {}


def answer(header, body=b""):
    text = json.dumps({**header, "bytes": len(body)}).encode()
    sink.write(struct.pack("<I", len(text)) + text + body)
    sink.flush()


def weights(path):
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        stored.clear()
        stored.update(json.loads(f.read(size)))
    file["data"] = np.memmap(path, np.uint8, "r", 8 + size) if stored else None


def weight(names, shape):
    """What lies from the first name to the last, in this shape: all of it, or its first rows."""
    first, last = stored[names[0]], stored[names[-1]]
    flat = file["data"][first["data_offsets"][0] : last["data_offsets"][1]].view(DTYPES[first["dtype"].lower()])
    return flat[: int(np.prod(shape))].reshape(shape)


def argument(a, body):
    if "weight" in a:
        name = a["weight"]
        if name not in placed:
            placed[name] = jax.device_put(weight(a.get("stack", [name]), a["shape"]))
        return placed[name]
    if "state" in a:
        return state[a["state"]]
    dtype = DTYPES[a["dtype"]]
    if "zeros" in a:
        return jax.numpy.zeros(a["zeros"], dtype)
    n = int(np.prod(a["shape"])) * np.dtype(dtype).itemsize
    data = np.frombuffer(body[0][:n], dtype).reshape(a["shape"])
    body[0] = body[0][n:]
    return data


def run(r, body):
    rest = [body]
    args = [argument(a, rest) for a in r["args"]]
    out = modules[r["name"]](*args)
    for name, value in zip(r["keep"], out):
        if name is not None:
            state[name] = value
    got = [np.ascontiguousarray(np.asarray(out[i]), np.float32) for i in r["fetch"]]
    answer({"sizes": [g.size for g in got]}, b"".join(g.tobytes() for g in got))


while True:
    head = source.read(4)
    if len(head) < 4:
        break
    r = json.loads(source.read(struct.unpack("<I", head)[0]))
    body = source.read(r["bytes"])
    try:
        if r["do"] == "run":
            run(r, body)
            continue
        if r["do"] == "weights":
            placed.clear()
            weights(r["path"])
        elif r["do"] == "module":
            exported = export.deserialize(bytearray(body))
            modules[r["name"]] = jax.jit(exported.call, donate_argnums=tuple(r["donate"]), keep_unused=True)
        elif r["do"] == "clear":
            state.clear()
            placed.clear()
        answer({})
    except Exception as e:
        answer({"error": f"{type(e).__name__}: {str(e)[:2000]}"})
`;
