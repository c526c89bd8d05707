/** The program that an artifact carries: it needs JAX, and nothing of gemmac. */
export const runPy = String.raw`"""Generates text with the model in this folder, on the device that JAX finds: TPU, GPU or CPU.

    pip install "jax[tpu]" flatbuffers tokenizers
    python run.py --prompt "In the beginning"

Without the package tokenizers, give token ids: python run.py --ids 2,651,8203
"""
import argparse, json, os, sys, time

here = os.path.dirname(os.path.abspath(__file__))


def stop(what, do):
    sys.exit(f"run.py: {what}\n  {do}")


try:
    import jax, jax.numpy as jnp, ml_dtypes, numpy as np
    from jax import export
except ImportError as e:
    stop(f"a package is missing: {e}", 'pip install "jax[tpu]" flatbuffers (on a machine without a TPU: pip install jax flatbuffers)')

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8, "u8": np.uint8, "bool": np.bool_}


def open_weights(path):
    """A function from names of tensors that follow one another to an array over the file, which stays on disk."""
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size) if header else None

    def read(names, shape):
        first, last = header[names[0]], header[names[-1]]
        flat = data[first["data_offsets"][0] : last["data_offsets"][1]]
        return flat.view(DTYPES[first["dtype"].lower()]).reshape(shape)

    return read


class Model:
    """The two functions of the folder, the weights on the device, and the caches, which each step overwrites."""

    def __init__(self, folder):
        self.manifest = json.load(open(os.path.join(folder, "manifest.json")))
        self.args = self.manifest["modules"]["decode"]["args"]
        self.batch, self.chunk = self.shape("decode", "tokens")[0], self.shape("prefill", "tokens")[1]
        self.calls = {}
        for name, module in self.manifest["modules"].items():
            exported = export.deserialize(bytearray(open(os.path.join(folder, module["file"]), "rb").read()))
            mesh = self.mesh(exported.nr_devices)
            # What comes out where is said too, so that each cache takes over its own memory.
            places = mesh and jax.tree.unflatten(exported.out_tree, exported.out_shardings_jax(mesh))
            self.calls[name] = jax.jit(exported.call, donate_argnums=(1,), out_shardings=places)
            if name == "decode":
                self.shardings = exported.in_shardings_jax(mesh) if mesh else [None] * len(self.args)
        read = open_weights(os.path.join(folder, "model.safetensors"))
        stored = lambda a: read(a.get("stack", [a["name"]]), a["shape"])
        self.weights = {a["name"]: jax.device_put(stored(a), s) for a, s in self.of("weights")}
        self.capacity = self.manifest["facts"]["context"]
        rings = [a for a, _ in self.of("caches") if a["shape"][-2] < self.capacity]
        self.pads = not rings  # a ring would lose what it must keep to the padding
        self.reset()

    def shape(self, module, name):
        return next(a["shape"] for a in self.manifest["modules"][module]["args"] if a["name"] == name)

    def mesh(self, count):
        """The devices that the modules were compiled for, as a grid; None for one device."""
        axes = self.manifest.get("mesh")
        if not axes:
            return None
        if jax.device_count() < count:
            stop(f"the artifact is for {count} devices, and JAX finds {jax.device_count()}", "compile it for another --mesh")
        return jax.sharding.Mesh(np.array(jax.devices()[:count]).reshape(list(axes.values())), list(axes))

    def of(self, group):
        return [(a, s) for a, s in zip(self.args, self.shardings) if a["group"] == group]

    def reset(self):
        self.caches = {a["name"]: jnp.zeros(a["shape"], DTYPES[a["dtype"]], device=s) for a, s in self.of("caches")}
        self.fed = 0

    def feed(self, ids):
        """Scores [batch, vocab] of the token after ids [batch, n]."""
        done = 0
        while done < ids.shape[1]:
            left, room = ids.shape[1] - done, self.capacity - self.fed
            many = room >= self.chunk and (left >= self.chunk or self.pads and left > 1)
            n = min(left, self.chunk if many else 1)
            step = np.zeros((self.batch, self.chunk if many else 1), np.int32)
            step[:, :n] = ids[:, done : done + n]
            rest = (np.int32(n - 1),) if many else ()
            call = self.calls["prefill" if many else "decode"]
            scores, self.caches = call(self.weights, self.caches, step, np.int32(self.fed), *rest)
            done, self.fed = done + n, self.fed + n
        return scores[:, 0]


def choose(scores, temperature, top_k, key):
    if temperature <= 0:
        return jnp.argmax(scores, -1).astype(jnp.int32)
    if top_k:
        least = jax.lax.top_k(scores, top_k)[0][:, -1:]
        scores = jnp.where(scores < least, -jnp.inf, scores)
    return jax.random.categorical(key, scores / temperature).astype(jnp.int32)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompt", action="append", help="text to continue; once for each row of a batch, of equal length in tokens")
    p.add_argument("--ids", action="append", help="token ids in the place of a text")
    p.add_argument("--max-tokens", type=int, default=64)
    p.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time")
    p.add_argument("--top-k", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    o = p.parse_args()
    if not (o.prompt or o.ids):
        p.error("give --prompt or --ids")
    tokenizer = None
    path = os.path.join(here, "tokenizer.json")
    if os.path.exists(path):
        try:
            from tokenizers import Tokenizer
            tokenizer = Tokenizer.from_file(path)
        except ImportError:
            if o.prompt:
                stop("--prompt needs the package tokenizers", "pip install tokenizers, or give --ids")
    elif o.prompt:
        stop("this folder has no tokenizer.json", "give --ids")
    rows = [[int(i) for i in text.split(",")] for text in o.ids or []]
    rows += [tokenizer.encode(text).ids for text in o.prompt or []]
    model = Model(here)
    if len({len(r) for r in rows}) != 1 or len(rows) > model.batch:
        stop(f"the prompts have {[len(r) for r in rows]} tokens", f"give up to {model.batch}, all of the same length")
    if len(rows[0]) > model.capacity:
        stop(f"a prompt has {len(rows[0])} tokens", f"the caches hold {model.capacity}")
    ids = np.array((rows * model.batch)[: model.batch], np.int32)
    ends = set(model.manifest["generation"]["eos"])
    jitted = jax.jit(choose, static_argnums=(1, 2))
    key = jax.random.key(o.seed)
    made, live = [[] for _ in rows], set(range(len(rows)))
    start = time.perf_counter()
    scores = model.feed(ids)
    first, steps = None, 0
    while live and steps < o.max_tokens:
        key, one = jax.random.split(key)
        chosen = np.asarray(jitted(scores, o.temperature, o.top_k, one))
        first = first or time.perf_counter()
        for r in list(live):
            if int(chosen[r]) in ends:
                live.discard(r)
            else:
                made[r].append(int(chosen[r]))
        steps += 1
        if not live or steps == o.max_tokens or model.fed == model.capacity:
            break
        scores = model.feed(chosen[:, None])
    seconds = time.perf_counter() - (first or start)
    for row in made:
        print(tokenizer.decode(row) if tokenizer else ",".join(map(str, row)))
    speed = f"{(steps - 1) / seconds:.1f} tokens/s" if steps > 1 else "1 token"
    print(f"{jax.devices()[0].device_kind}, {speed}", file=sys.stderr)


if __name__ == "__main__":
    main()
`;

export const readme = ({
  batch,
  prefill,
}: {
  batch: number;
  prefill: number;
}): string => `# A Gemma model for XLA

On a TPU VM (or with a GPU or CPU, and \`pip install jax\`):

    pip install "jax[tpu]" flatbuffers tokenizers
    python run.py --prompt "In the beginning"

- \`prefill.mlir\` takes ${prefill} tokens a step for ${batch === 1 ? "one text" : `${batch} texts`} and scores the one whose number is \`last\`;
  \`decode.mlir\` takes one. Plain StableHLO; RMSNorm, RoPE, attention and the like stand under their names
  (\`gemmac.rms_norm\` …) as \`stablehlo.composite\`, each beside its decomposition.
- \`prefill.jaxexp\`, \`decode.jaxexp\`: the same for \`jax.export.deserialize(blob).call\`, called as
  \`(weights, caches, tokens, start[, last]) -> (logits, caches)\`, weights and caches as dictionaries by name. Donate the
  caches: they are overwritten in place.
- \`model.safetensors\`: the weights by name; \`manifest.json\` lists all arguments with types and order.

JAX reads such blobs for six months after the version they were written for (0.10). The text lasts longer, but carries
no promise either: compile the checkpoint again for a much newer JAX.
`;
