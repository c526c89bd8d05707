import type { onnx } from "onnx-proto";
import type { Graph, Value } from "../../ir/graph.ts";
import type { Builder } from "./builder.ts";
import { elementType, int64, valueInfo } from "./proto.ts";

/** A padded slot's position: later than any query, so the causal mask hides it. */
const padded = 1 << 20;

/** Which file tensor and axis has each symbolic size of the graph. */
export const symbolicSizes = { B: ["input_ids", 0], T: ["input_ids", 1], P: ["past_key_values.0.key", 2] } as const;

/**
 * Declares the inputs that Hugging Face clients feed (`input_ids`, `attention_mask`, `past_key_values.N.*`) and
 * computes from them what the graph reads. Positions count the mask's ones, so left and right padding both work.
 */
export function declareInputs(b: Builder, g: Graph): onnx.IValueInfoProto[] {
  const inputs = new Map(g.inputs.map((v) => [String(v.attrs.name), v]));
  const declared: onnx.IValueInfoProto[] = [];
  const take = (name: string): Value => {
    const v = inputs.get(name);
    if (!v) throw new TypeError(`the ONNX interface needs the graph input ${name}; it has ${[...inputs.keys()].join(", ")}`);
    inputs.delete(name);
    return v;
  };
  const tokens = take("tokens");
  const positions = take("positions");
  const past = take("past_positions");
  declared.push(valueInfo("input_ids", int64, tokens.shape));
  b.names.set(tokens, "input_ids");

  const [B, T] = [positions.type.at(0), positions.type.at(1)];
  declared.push(valueInfo("attention_mask", int64, [B, plusPast(g, T)]));
  const count = b.raw("/positions/CumSum", "CumSum", ["attention_mask", b.raw("/positions/Squeeze", "Squeeze", [b.ints([1])])]);
  const place = b.raw("/positions/Sub", "Sub", [count, b.ints([1])]);
  const real = b.raw("/positions/Cast", "Cast", ["attention_mask"], { to: elementType.bool });
  const all = b.raw("/positions/Cast", "Cast", [b.raw("/positions/Where", "Where", [real, place, b.ints([padded])])], { to: elementType.i32 });
  const P = b.size(past.type.at(1));
  b.names.set(past, b.raw("/positions/Slice", "Slice", [all, b.ints([0]), P, b.ints([1])]));
  b.names.set(positions, b.raw("/positions/Slice", "Slice", [all, P, b.ints([Number.MAX_SAFE_INTEGER]), b.ints([1])]));

  for (const [name, v] of inputs) {
    declared.push(valueInfo(name, elementType[v.dtype], v.shape));
    b.names.set(v, name);
  }
  return declared;
}

const plusPast = (g: Graph, T: Value["shape"][number]) => {
  const next = Object.entries(g.outputs).find(([name]) => name.startsWith("present."));
  return next ? next[1].type.at(2) : T;
};
