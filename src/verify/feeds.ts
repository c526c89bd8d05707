import type { ModelFacts } from "../../backends/backend.ts";
import { int64Row, placedText } from "../../backends/onnx/index.ts";
import { cacheNames } from "../../passes/kv-cache.ts";

/** What a client feeds for these tokens after `past` others, but for empty caches; one not among `caches` is zero. */
export async function clientFeeds(
  facts: ModelFacts,
  ids: readonly number[],
  past = 0,
  caches: Readonly<Record<string, Float32Array>> = {},
) {
  const { Tensor } = await import("onnxruntime-node");
  const shape = [1, facts.kvHeads, past, facts.headDim];
  const zero = new Float32Array(facts.kvHeads * past * facts.headDim);
  const names = Array.from({ length: past > 0 ? facts.layers : 0 }, (_, i) => cacheNames(i)).flatMap((n) => [
    n.key,
    n.value,
  ]);
  const mask = new Array<number>(past + ids.length).fill(1);
  return {
    input_ids: await int64Row(ids),
    attention_mask: await int64Row(mask),
    ...(await placedText(ids, past)),
    ...Object.fromEntries(names.map((name) => [name, new Tensor("float32", caches[name] ?? zero, shape)])),
  };
}
