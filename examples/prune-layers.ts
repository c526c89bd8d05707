// Drops layers: what layer `from` is given goes straight to layer `to`. Run it before insert-kv-cache, so that only the
// layers that are left get caches; --pass does.
//
//   gemmac compile gemma-2b --target onnx --out pruned --pass "./examples/prune-layers.ts{from=12,to=14}"
import { type Graph, int, map, pass, type Value } from "gemmac";

/** The value that stands for a layer's output, by the name it has in the model. */
function outputOf(g: Graph, layer: number): Value {
  const name = layer < 0 ? "model/embed_tokens" : `model/layers.${layer}`;
  const present = new Set(g.values());
  const found = [...g.origins].find(([v, origin]) => origin === name && present.has(v));
  if (!found) throw new TypeError(`the graph has no ${name}`);
  return found[0];
}

export default pass("prune-layers", {
  doc: "Layers `from` up to, not including, `to` are dropped; layers count from 0.",
  law: "free",
  options: { from: int(), to: int() },
  run(g, { from, to }) {
    if (from < 0 || to <= from) throw new TypeError(`from ${from} to ${to} is no range of layers`);
    const [last, source] = [outputOf(g, to - 1), outputOf(g, from - 1)];
    let given = source;
    return map(g, (v, before) => {
      if (before === source) given = v;
      return before === last ? given : v;
    });
  },
});
