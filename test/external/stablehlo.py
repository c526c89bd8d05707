"""Checks StableHLO artifacts with jaxlib's own parser and XLA, on 8 virtual devices. JAX is all that it imports.

    stablehlo.py parse FOLDER...   every .mlir parses and verifies
    stablehlo.py load FILE         a .jaxexp loads and runs by itself, on zeros
    stablehlo.py same CASES        a JSON list of pairs of artifacts: both give the same scores, in place
"""
import collections, functools, json, os, re, sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax, jax.numpy as jnp, ml_dtypes, numpy as np
from jax import export

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8}
COLLECTIVE = r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def parse(*folders):
    module = jax.jit(lambda x: x).lower(1.0).compiler_ir("stablehlo")
    for folder in folders:
        for name in ("prefill", "decode"):
            with open(os.path.join(folder, name + ".mlir")) as f, module.context:
                assert type(module).parse(f.read()).operation.verify(), f"{folder}/{name}"
    print(f"{len(folders)} artifacts: every .mlir parses and verifies")


def load(path):
    with open(path, "rb") as f:
        exported = export.deserialize(bytearray(f.read()))
    flat = [jnp.zeros(a.shape, a.dtype) for a in exported.in_avals]
    args, _ = jax.tree.unflatten(exported.in_tree, flat)
    out = jax.jit(exported.call)(*args)
    assert all(bool(jnp.isfinite(x.astype(jnp.float32)).all()) for x in jax.tree.leaves(out))
    print(f"{path}: loads and runs with JAX alone")


def open_weights(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()

    def read(a):
        names = a.get("stack", [a["name"]])
        begin, end = header[names[0]]["data_offsets"][0], header[names[-1]]["data_offsets"][1]
        return np.frombuffer(data[begin:end], DTYPES[a["dtype"]]).reshape(a["shape"])

    return read


class Artifact:
    def __init__(self, folder):
        with open(os.path.join(folder, "manifest.json")) as f:
            self.manifest = json.load(f)
        mesh = self.manifest.get("mesh")
        grid = mesh and np.array(jax.devices()[: np.prod(list(mesh.values()))]).reshape(list(mesh.values()))
        self.calls, self.args = {}, {}
        for name, module in self.manifest["modules"].items():
            with open(os.path.join(folder, module["file"]), "rb") as f:
                e = export.deserialize(bytearray(f.read()))
            on = mesh and jax.sharding.Mesh(grid, list(mesh))
            places = e.in_shardings_jax(on) if mesh else [None] * len(e.in_avals)
            self.args[name] = list(zip(module["args"], places))
            left = jax.tree.unflatten(e.out_tree, e.out_shardings_jax(on)) if mesh else None
            self.calls[name] = jax.jit(e.call, donate_argnums=(1,), out_shardings=left)
        read = open_weights(folder)
        self.weights = {a["name"]: jax.device_put(read(a), p) for a, p in self.of("decode", "weights")}
        self.caches = {a["name"]: jnp.zeros(a["shape"], DTYPES[a["dtype"]], device=p) for a, p in self.of("decode", "caches")}
        self.compiled = {}

    def of(self, module, group):
        return [(a, p) for a, p in self.args[module] if a["group"] == group]

    def step(self, name, *values):
        """Scores, the collectives of the compiled step, and whether the caches stayed where they were."""
        inputs = [jax.device_put(v, p) for v, (_, p) in zip(values, self.of(name, "inputs"))]
        args = (self.weights, self.caches, *inputs)
        if name not in self.compiled:
            self.compiled[name] = self.calls[name].lower(*args).compile()
        step = self.compiled[name]
        before = pointers(self.caches)
        scores, self.caches = step(*args)
        found = collections.Counter(re.findall(COLLECTIVE, step.as_text()))
        return np.asarray(scores, np.float32), dict(found), pointers(self.caches) == before


def pointers(caches):
    return [s.data.unsafe_buffer_pointer() for c in caches.values() for s in c.addressable_shards]


def scored(folder):
    """What a step of prefill and a few of decode give: scores and collectives of each."""
    artifact = Artifact(folder)
    vocab = artifact.manifest["facts"]["vocab"]
    shape = next(a["shape"] for a, _ in artifact.args["prefill"] if a["name"] == "tokens")
    ids = (np.arange(np.prod(shape)).reshape(shape) * 7919 % vocab).astype(np.int32)
    steps = [("prefill", ids, np.int32(0), np.int32(shape[1] - 1))]
    steps += [("decode", ids[:, i : i + 1], np.int32(shape[1] + i)) for i in range(3)]
    out = []
    for name, *values in steps:
        scores, collectives, stayed = artifact.step(name, *values)
        assert stayed, f"{folder}/{name} moves its caches"
        out.append((name, scores, collectives))
    return out


def same(path):
    with open(path) as f:
        cases = json.load(f)
    known = functools.cache(scored)
    for case in cases:
        worst = 0
        for (name, want, _), (_, got, collectives) in zip(known(case["one"]), known(case["other"])):
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
            where = f"{case['name']}: {name}"
            assert worst <= case["off"], f"{where} is off by {worst:.1e}, and {case['off']:.1e} is allowed"
            found = {kind: collectives.get(kind, 0) for kind in case["collectives"]}
            assert found == case["collectives"], f"{where} has {collectives}"
        print(f"{case['name']}: off by {worst:.1e} of {case['off']:.0e}, {collectives or 'no collectives'}, caches in place", flush=True)


{"parse": parse, "load": load, "same": same}[sys.argv[1]](*sys.argv[2:])
