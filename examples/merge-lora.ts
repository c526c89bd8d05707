// Merges a LoRA adapter (Hu et al. 2021) into the weights: w + alpha/rank · B·A, with A and B from a folder as PEFT
// saves it. `rank`, `alpha` and the modules are those of its adapter_config.json.
//
//   gemmac compile gemma-2b --target onnx --out tuned --weights-from ./my-adapter \
//     --pass "./examples/merge-lora.ts{rank=8,alpha=16,modules=q_proj+v_proj}"
import {
  add,
  cast,
  dtype,
  float,
  int,
  map,
  matmul,
  mul,
  param,
  pass,
  string,
  tensor,
  type Value,
} from "gemmac";

export default pass("merge-lora", {
  doc: "w → w + alpha/rank · B·A for the weights of the modules, listed with + between.",
  law: "free",
  options: { rank: int(), alpha: float(), modules: string("q_proj+v_proj"), stored: dtype("f32") },
  run(g, { rank, alpha, modules, stored }) {
    const wanted = modules.split("+");
    const weights = new Set(g.weights());
    let found = 0;

    /** The module of a stored weight, such as model.layers.0.self_attn.q_proj, if the adapter changes it. */
    const moduleOf = (v: Value): string | undefined => {
      const name = weights.has(v) ? String(v.attrs.name) : "";
      const module = name.replace(/\.weight$/, "");
      return module !== name && wanted.includes(module.split(".").at(-1) ?? "") ? module : undefined;
    };
    const merged = (w: Value, module: string): Value => {
      found++;
      const [out, width] = [w.fixed(0), w.fixed(1)];
      const a = param({ name: `${module}.lora_A.weight`, type: tensor(stored, rank, width) });
      const b = param({ name: `${module}.lora_B.weight`, type: tensor(stored, out, rank) });
      const change = matmul(cast(b, { to: "f32" }), cast(a, { to: "f32" }));
      return add(cast(w, { to: "f32" }), mul(change, alpha / rank));
    };

    // The model reads a matrix widened to f32, which is the stored param itself when it is f32 already.
    const changed = map(
      g,
      (v) => v,
      (v) => {
        const w = cast.of(v)?.x ?? v;
        const module = v.dtype === "f32" ? moduleOf(w) : undefined;
        return module === undefined ? undefined : merged(w, module);
      },
    );
    if (found === 0) throw new TypeError(`no module is called ${modules}`);
    return changed;
  },
});
