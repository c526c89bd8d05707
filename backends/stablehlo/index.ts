import { parsePipeline } from "../../passes/pipeline.ts";
import { type Backend, type CacheSize, usualCapacity } from "../backend.ts";
import { type EmitOptions, emit, keeps } from "./emit.ts";

export { openPieces } from "./part.ts";
export { type Collectives, type DevicePlan, layOut } from "./plan.ts";
export { openSession } from "./session.ts";

export interface StableHloOptions extends Partial<EmitOptions>, CacheSize {
  /** Devices to run on, as in `data=2,model=4`. */
  readonly mesh?: string;
  /** "f32" widens the weights in the file, which suits CPUs: XLA widens anew in each step there. */
  readonly weights?: "stored" | "f32";
}

/** What is compiled for when nothing is said. */
const usual = {
  batch: 1,
  prefill: 256,
  rows: 1,
  scanLayers: false,
  arithmetic: "f32",
} as const;

/** All options. */
export function withDefaults(
  options: StableHloOptions,
): EmitOptions & StableHloOptions & { capacity: number } {
  return { ...usual, capacity: usualCapacity(options.context), ...options };
}

export const stablehlo = (options: StableHloOptions = {}): Backend => {
  const { capacity, mesh, weights, ...chosen } = withDefaults(options);
  const cut = mesh === undefined ? "" : `,shard{mesh=${mesh.replaceAll("=", ":").replaceAll(",", "/")}}`;
  const narrow = chosen.arithmetic === "bf16" ? "narrow-caches," : "";
  const [share, casts] = weights === "f32" ? ["share-tables,", "fold"] : ["", "keep"];
  const text = `${share}fuse,${narrow}insert-kv-cache{capacity=${capacity}},fuse-quant,fold-weights{work=blockwise,casts=${casts}}${cut}`;
  return {
    name: "stablehlo",
    doc: "StableHLO for XLA (TPU, GPU, CPU): prefill and decode as text and as jax.export blobs, with a program to run them.",
    quantBlock: 0,
    passes: parsePipeline(text),
    keeps,
    refuses: (v) =>
      v.dtype === "i4" ? "XLA has no fast product by 4-bit codes; use --quant int8" : undefined,
    emit: (request) => emit(request, chosen),
  };
};
