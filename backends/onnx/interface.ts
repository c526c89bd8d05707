import type { Graph, Value } from "../../ir/graph.ts";
import type { Builder } from "./builder.ts";
import { elementType, int64 } from "./proto.ts";

/** A padded slot's position: later than any query, so the causal mask hides it. */
const padded = 1 << 20;

/**
 * Declares the file's inputs. A language model's are those that Hugging Face clients feed: `input_ids`,
 * `attention_mask` and `past_key_values.N.*`, from which the graph's tokens and positions follow. Any other graph
 * keeps its own.
 */
export function declareInputs(b: Builder, g: Graph): void {
  const inputs = new Map(g.inputs.map((v) => [String(v.attrs.name), v]));
  const [tokens, positions, past] = ["tokens", "positions", "past_positions"].map((name) => inputs.get(name));
  const isModel = tokens && positions && past;
  if (isModel) b.input("input_ids", int64, tokens.shape);
  for (const [name, v] of inputs) {
    if (isModel && (v === tokens || v === positions || v === past)) continue;
    b.input(name, elementType[v.dtype], v.shape);
    b.names.set(v, name);
  }
  if (isModel) {
    b.names.set(tokens, "input_ids");
    declarePositions(b, g, positions, past);
  }
}

/** Positions count the ones of the attention mask, so left and right padding both work. */
function declarePositions(b: Builder, g: Graph, positions: Value, past: Value): void {
  const present = Object.entries(g.outputs).find(([name]) => name.startsWith("present."))?.[1];
  if (!present)
    throw new TypeError("the ONNX interface needs the outputs present.N.key; run insert-kv-cache");
  b.input("attention_mask", int64, [positions.type.at(0), present.type.at(2)]);
  const step = (opType: string, inputs: readonly string[], attributes = {}) =>
    b.raw(`/positions/${opType}`, opType, inputs, attributes);
  const all = () =>
    b.once("positions", () => {
      const place = step("Sub", [step("CumSum", ["attention_mask", b.index(1)]), b.ints([1])]);
      const real = step("Cast", ["attention_mask"], { to: elementType.bool });
      return step("Cast", [step("Where", [real, place, b.ints([padded])])], { to: elementType.i32 });
    });
  const seen = () => b.size(past.type.at(1));
  b.defer(past, () => step("Slice", [all(), b.ints([0]), seen(), b.ints([1])]));
  b.defer(positions, () => step("Slice", [all(), seen(), b.ints([Number.MAX_SAFE_INTEGER]), b.ints([1])]));
}

/** What GroupQueryAttention reads in the place of positions: the last token's index for each text, and the length. */
export function sequenceLengths(b: Builder): readonly [last: string, total: string] {
  const step = (opType: string, inputs: readonly string[], attributes = {}) =>
    b.raw(`/lengths/${opType}`, opType, inputs, attributes);
  const int32 = { to: elementType.i32 };
  const last = b.once("last index", () => {
    const ones = step("ReduceSum", ["attention_mask", b.ints([1])], { keepdims: 0 });
    return step("Cast", [step("Sub", [ones, b.index(1)])], int32);
  });
  const total = b.once("total length", () => {
    const size = b.raw("/lengths/Shape", "Shape", ["attention_mask"], { start: 1, end: 2 });
    return step("Cast", [step("Squeeze", [size])], int32);
  });
  return [last, total];
}
