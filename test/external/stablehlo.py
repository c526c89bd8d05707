"""Checks StableHLO artifacts with jaxlib's own parser and XLA, on 8 virtual devices. JAX is all that it imports.

    stablehlo.py parse FOLDER...            every .mlir parses and verifies
    stablehlo.py mesh ONE MANY              both give the same scores; MANY is compiled for a mesh of 8
"""
import collections, json, os, re, sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax, ml_dtypes, numpy as np
from jax import export

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8}


def parse(folders):
    module = jax.jit(lambda x: x).lower(1.0).compiler_ir("stablehlo")
    for folder in folders:
        for name in ("prefill", "decode"):
            text = open(os.path.join(folder, name + ".mlir")).read()
            with module.context:
                parsed = type(module).parse(text)
                assert parsed.operation.verify(), name
            print(f"{folder}/{name}.mlir: parses and verifies, {len(text)} characters")


def weights(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()
    return {
        name: np.frombuffer(data[slice(*t["data_offsets"])], DTYPES[t["dtype"].lower()]).reshape(t["shape"])
        for name, t in header.items()
    }


class Artifact:
    def __init__(self, folder):
        self.manifest = json.load(open(os.path.join(folder, "manifest.json")))
        mesh = self.manifest.get("mesh")
        self.mesh = mesh and jax.sharding.Mesh(np.array(jax.devices()).reshape(list(mesh.values())), list(mesh))
        stored = weights(folder)
        self.calls, self.args = {}, {}
        for name, module in self.manifest["modules"].items():
            e = export.deserialize(bytearray(open(os.path.join(folder, module["file"]), "rb").read()))
            places = e.in_shardings_jax(self.mesh) if mesh else [None] * len(e.in_avals)
            self.args[name] = list(zip(module["args"], places))
            self.calls[name] = jax.jit(e.call, donate_argnums=(1,))
        of = lambda group: [(a, p) for a, p in self.args["decode"] if a["group"] == group]
        self.weights = {a["name"]: jax.device_put(stored[a["name"]], p) for a, p in of("weights")}
        self.caches = {a["name"]: jax.device_put(np.zeros(a["shape"], DTYPES[a["dtype"]]), p) for a, p in of("caches")}

    def inputs(self, name, *values):
        places = [p for a, p in self.args[name] if a["group"] == "inputs"]
        return [jax.device_put(v, p) for v, p in zip(values, places)]

    def step(self, name, *values):
        """Scores, the collectives of the compiled step, and whether the caches stayed where they were."""
        inputs = self.inputs(name, *values)
        args = (self.weights, self.caches, *inputs)
        text = self.calls[name].lower(*args).compile().as_text()
        found = re.findall(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", text)
        before = pointers(self.caches)
        scores, self.caches = self.calls[name](*args)
        return np.asarray(scores, np.float32), dict(collections.Counter(found)), pointers(self.caches) == before


def pointers(caches):
    return [s.data.unsafe_buffer_pointer() for c in caches.values() for s in c.addressable_shards]


def mesh(one, many):
    a, b = Artifact(one), Artifact(many)
    layers = a.manifest["facts"]["layers"]
    vocab = a.manifest["facts"]["vocab"]
    shape = next(x["shape"] for x, _ in a.args["prefill"] if x["name"] == "tokens")
    ids = (np.arange(np.prod(shape)).reshape(shape) * 7919 % vocab).astype(np.int32)
    steps = [("prefill", ids, np.int32(0), np.int32(shape[1] - 1))]
    steps += [("decode", ids[:, i : i + 1], np.int32(shape[1] + i)) for i in range(3)]
    for name, *values in steps:
        want, _, _ = a.step(name, *values)
        got, collectives, in_place = b.step(name, *values)
        off = np.abs(got - want).max() / max(1, np.abs(want).max())
        print(f"{many}/{name}: off by {off:.1e}, {collectives}, caches in place: {in_place}")
        assert off < 1e-5
        assert collectives == {"all-reduce": 1 + 2 * layers}, collectives
        assert in_place


{"parse": parse, "mesh": lambda folders: mesh(*folders)}[sys.argv[1]](sys.argv[2:])
