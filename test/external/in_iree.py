"""Compiles the text of a StableHLO artifact with IREE, a compiler that is not XLA, and runs it beside XLA.

    in_iree.py FOLDER      needs the packages iree-base-compiler and iree-base-runtime
"""
import json, os, sys

os.environ["JAX_PLATFORMS"] = "cpu"
import jax, ml_dtypes, numpy as np
from jax import export

try:
    import iree.compiler, iree.runtime
except ImportError as e:
    print(f"SKIPPED: the text in IREE: {e}")
    sys.exit(0)

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8}
folder = sys.argv[1]
with open(os.path.join(folder, "manifest.json")) as f:
    modules = json.load(f)["modules"]
random = np.random.default_rng(1)


def argument(a):
    if a["group"] == "inputs":
        return np.arange(np.prod(a["shape"]), dtype=np.int32).reshape(a["shape"])
    if a["dtype"] == "i8":
        return random.integers(-127, 128, a["shape"], np.int8)
    scale = 0 if a["group"] == "caches" else 0.1
    return (random.standard_normal(a["shape"], np.float32) * scale).astype(DTYPES[a["dtype"]])


for name, module in modules.items():
    args = [argument(a) for a in module["args"]]
    with open(os.path.join(folder, name + ".mlir")) as f:
        text = f.read()
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=generic"]
    built = iree.compiler.compile_str(text, input_type="stablehlo", extra_args=flags)
    loaded = iree.runtime.load_vm_flatbuffer(built, driver="local-task")
    got = loaded.main(*args)[0].to_host()
    with open(os.path.join(folder, module["file"]), "rb") as f:
        exported = export.deserialize(bytearray(f.read()))
    positional, _ = jax.tree.unflatten(exported.in_tree, args)
    want = np.asarray(jax.jit(exported.call)(*positional)[0])
    off = np.abs(got - want).max() / np.abs(want).max()
    print(f"IREE {name}: {len(text)} characters, {len(built)} bytes of code, off XLA by {off:.1e}")
    assert off < 1e-4
