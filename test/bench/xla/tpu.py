"""Compiles modules ahead of time for a TPU, on a machine that has none, and prints the memory that the compiler reports.

    tpu.py TOPOLOGY FOLDER[/MODULE]...        such as v5e:2x4 gemma-2b/decode; needs the package libtpu
"""
import collections, json, os, re, sys, time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, ml_dtypes, numpy as np
from jax import export
from jax.experimental import topologies

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8}
BITS = {"f32": 32, "bf16": 16, "s32": 32, "s8": 8, "u8": 8, "pred": 8}
COLLECTIVE = r"= (\([^=]*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def collectives(text):
    """kind -> (how many, MiB of results on a device)"""
    out = collections.defaultdict(lambda: [0, 0.0])
    for shapes, kind in re.findall(COLLECTIVE, text):
        sizes = [np.prod([int(d) for d in dims.split(",") if d] or [1]) * BITS.get(t, 32) / 8 for t, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)]
        out[kind][0] += 1
        out[kind][1] += max(sizes) / 2**20
    return ", ".join(f"{n} {kind} ({mib:.2f} MiB)" for kind, (n, mib) in out.items()) or "no collectives"


def compile_one(folder, name, topology):
    manifest = json.load(open(os.path.join(folder, "manifest.json")))
    module = manifest["modules"][name]
    e = export.deserialize(bytearray(open(os.path.join(folder, module["file"]), "rb").read()))
    mesh = manifest.get("mesh")
    if mesh:
        devices = np.array(topology.devices).reshape(list(mesh.values()))
        places = e.in_shardings_jax(jax.sharding.Mesh(devices, list(mesh)))
    else:
        places = [jax.sharding.SingleDeviceSharding(topology.devices[0])] * len(module["args"])
    args = [jax.ShapeDtypeStruct(a["shape"], DTYPES[a["dtype"]], sharding=p) for a, p in zip(module["args"], places)]
    tree = jax.tree.unflatten(e.in_tree, args)[0]
    start, used = time.perf_counter(), time.process_time()
    compiled = jax.jit(e.call, donate_argnums=(1,)).lower(*tree).compile()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    m = compiled.memory_analysis()
    gib = lambda n: f"{n / 2**30:.3f}"
    text = compiled.as_text()
    cost = compiled.cost_analysis() or {}
    print(
        f"{folder}/{name} on {sys.argv[1]}: {seconds:.1f} s ({used:.1f} s of processor time), code {m.generated_code_size_in_bytes / 2**20:.0f} MiB | a device, GiB: "
        f"args {gib(m.argument_size_in_bytes)} in place {gib(m.alias_size_in_bytes)} temp {gib(m.temp_size_in_bytes)} | "
        f"{collectives(text)} | {cost.get('flops', 0) / 1e9:.1f} GFLOP, {cost.get('bytes accessed', 0) / 1e9:.2f} GB",
        flush=True,
    )


try:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1])
except Exception as e:
    print(f"SKIPPED: XLA for the TPU: {str(e).splitlines()[0]}")
    sys.exit(0)
for path in sys.argv[2:]:
    folder, name = os.path.split(path)
    for module in [name] if name in ("decode", "prefill") else ["decode", "prefill"]:
        compile_one(folder if module == name else path, module, topology)
