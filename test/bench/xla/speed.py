"""Speed of an artifact in XLA beside the same Gemma written in plain JAX, on the same weights, in alternating rounds.

    speed.py run FOLDER [ROUNDS [STEPS]]     decode and prefill, in tokens a second
    speed.py compile FOLDER...               seconds that XLA takes for each module; needs no weights

Prints one line of JSON for each.
"""
import functools, json, os, sys, time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax, jax.numpy as jnp, ml_dtypes, numpy as np
from jax import export

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8}


class Artifact:
    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "manifest.json")) as f:
            self.manifest = json.load(f)

    def exported(self, name):
        with open(os.path.join(self.folder, self.manifest["modules"][name]["file"]), "rb") as f:
            return export.deserialize(bytearray(f.read()))

    def args(self, name, group):
        return [a for a in self.manifest["modules"][name]["args"] if a["group"] == group]

    def compile_seconds(self, name):
        """By the clock, and of processor time."""
        e = self.exported(name)
        shapes = [jax.ShapeDtypeStruct(a["shape"], DTYPES[a["dtype"]]) for a in self.manifest["modules"][name]["args"]]
        lowered = jax.jit(e.call, donate_argnums=(1,)).lower(*jax.tree.unflatten(e.in_tree, shapes)[0])
        start, used = time.perf_counter(), time.process_time()
        lowered.compile()
        return time.perf_counter() - start, time.process_time() - used

    def weights(self):
        path = os.path.join(self.folder, "model.safetensors")
        with open(path, "rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size))
        data = np.memmap(path, np.uint8, "r", 8 + size)
        out = {}
        for a in self.args("decode", "weights"):
            names = a.get("stack", [a["name"]])
            part = data[header[names[0]]["data_offsets"][0] : header[names[-1]]["data_offsets"][1]]
            out[a["name"]] = jax.device_put(part.view(DTYPES[a["dtype"]]).reshape(a["shape"]))
        return out


def rms_norm(x, scale, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


def rope(x, positions, theta):
    half = x.shape[-1] // 2
    angles = positions[:, :, None, None] / theta ** (jnp.arange(half) / half)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def gemma(config, weights, caches, tokens, start, last=None):
    """A Gemma 1 as one writes it by hand: caches [batch, slots, heads, size], written in place; scores of one token."""
    # Names begin with the checkpoint's; those of norms hold 1 + the checkpoint's weight.
    find = lambda table, name: next(table[n] for n in table if n.startswith(name)).astype(jnp.float32)
    batch, steps = tokens.shape
    heads, kv, size, eps = (config[k] for k in ("heads", "kvHeads", "headDim", "eps"))
    positions = jnp.broadcast_to(start + jnp.arange(steps), (batch, steps))
    times = lambda x, w: jnp.einsum("btd,nd->btn", x, w)
    turn = lambda x: rope(x, positions, config["theta"])

    def layer(x, w, past_k, past_v):
        h = rms_norm(x, w("input_layernorm"), eps)
        project = lambda name, n: times(h, w(f"self_attn.{name}_proj")).reshape(batch, steps, n, size)
        ks = jax.lax.dynamic_update_slice(past_k, turn(project("k", kv)), (0, start, 0, 0))
        vs = jax.lax.dynamic_update_slice(past_v, project("v", kv), (0, start, 0, 0))
        q = turn(project("q", heads)).reshape(batch, steps, kv, heads // kv, size)
        scores = jnp.einsum("btkgd,bskd->bkgts", q, ks) * size**-0.5
        seen = jnp.arange(ks.shape[1]) <= positions[:, None, None, :, None]
        p = jax.nn.softmax(jnp.where(seen, scores, -1e30), -1)
        o = jnp.einsum("bkgts,bskd->btkgd", p, vs).reshape(batch, steps, heads * size)
        x = x + times(o, w("self_attn.o_proj"))
        h = rms_norm(x, w("post_attention_layernorm"), eps)
        gate = jax.nn.gelu(times(h, w("mlp.gate_proj")), approximate=True)
        return x + times(gate * times(h, w("mlp.up_proj")), w("mlp.down_proj")), ks, vs

    table = next(weights[n] for n in weights if n.startswith("model.embed_tokens"))
    x = table[tokens].astype(jnp.float32) * config["width"] ** 0.5
    stacked = {n: t for n, t in weights.items() if n.startswith("model.layers.n.")}
    if stacked:

        def one(x, turn):
            part, k, v = turn
            x, k, v = layer(x, lambda name: find(part, f"model.layers.n.{name}"), k, v)
            return x, (k, v)

        x, new = jax.lax.scan(one, x, (stacked, *caches))
    else:
        ks, vs = [], []
        for i in range(config["layers"]):
            x, k, v = layer(x, lambda name: find(weights, f"model.layers.{i}.{name}"), caches[0][i], caches[1][i])
            ks.append(k)
            vs.append(v)
        new = (ks, vs)
    x = x[:, -1:] if last is None else jax.lax.dynamic_slice_in_dim(x, last, 1, 1)
    return times(rms_norm(x, find(weights, "model.norm"), eps), table.astype(jnp.float32)), new


def run(folder, rounds="3", steps="16"):
    rounds, steps = int(rounds), int(steps)
    artifact = Artifact(folder)
    model = artifact.manifest["model"]
    config = {k: model[k] for k in ("heads", "kvHeads", "headDim", "layers", "width", "eps")}
    config["theta"] = model["rope"]["theta"]
    weights = artifact.weights()
    prompt = next(a["shape"] for a in artifact.args("prefill", "inputs") if a["name"] == "tokens")
    batch, slots = prompt[0], artifact.manifest["facts"]["context"]
    shape = (batch, slots, config["kvHeads"], config["headDim"])
    ours = {a["name"]: jnp.zeros(a["shape"], DTYPES[a["dtype"]]) for a in artifact.args("decode", "caches")}
    stacked = any("stack" in a for a in artifact.args("decode", "caches"))
    layers = config["layers"]
    many = lambda: jnp.zeros((layers, *shape)) if stacked else [jnp.zeros(shape) for _ in range(layers)]
    plain = (many(), many())
    hand = jax.jit(functools.partial(gemma, config), donate_argnums=(1,))
    sides = {
        "ours": ({name: jax.jit(artifact.exported(name).call, donate_argnums=(1,)) for name in ("decode", "prefill")}, ours),
        "JAX": ({"decode": hand, "prefill": hand}, plain),
    }
    ids = (np.arange(np.prod(prompt)).reshape(prompt) * 7919 % artifact.manifest["facts"]["vocab"]).astype(np.int32)
    found = {(side, what): [] for side in sides for what in ("decode", "prefill")}
    first = {}
    for turn in range(rounds + 1):  # the first one warms up, and compares
        for side, (calls, caches) in sides.items():
            begin = time.perf_counter()
            scores, caches = calls["prefill"](weights, caches, ids, np.int32(0), np.int32(prompt[1] - 1))
            scores.block_until_ready()
            seconds = [time.perf_counter() - begin]
            for i in range(steps):
                begin = time.perf_counter()
                scores, caches = calls["decode"](weights, caches, ids[:, [i % prompt[1]]], np.int32(prompt[1] + i))
                scores.block_until_ready()
                seconds.append(time.perf_counter() - begin)
            sides[side] = (calls, caches)
            first.setdefault(side, np.asarray(scores))
            if turn:
                found[side, "prefill"].append(prompt[0] * prompt[1] / seconds[0])
                found[side, "decode"] += [batch / s for s in seconds[1:]]
    off = float(np.abs(first["ours"] - first["JAX"]).max() / np.abs(first["JAX"]).max())
    assert off < 1e-3, off
    best = lambda xs: float(np.quantile(xs, 0.9))
    for what in ("decode", "prefill"):
        a, b = (found[side, what] for side in ("ours", "JAX"))
        row = {"what": what, "ours": best(a), "jax": best(b), "best": best(a) / best(b), "median": float(np.median(a) / np.median(b)), "off": off}
        print(json.dumps(row), flush=True)


def compile_all(*folders):
    for folder in folders:
        for name in ("decode", "prefill"):
            seconds, used = Artifact(folder).compile_seconds(name)
            print(json.dumps({"folder": os.path.basename(folder), "module": name, "seconds": seconds, "used": used}), flush=True)


{"run": run, "compile": compile_all}[sys.argv[1]](*sys.argv[2:])
