import { type Dim, times } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import { cast } from "../../../ir/ops/index.ts";
import { bits } from "../library/format.ts";
import { type GemmShape, gemm, tileOf } from "../library/products/gemm.ts";
import { gemmTensor, tensorReads } from "../library/products/gemm-tensor.ts";
import { tensorTile, tokensOfTile } from "../library/products/tensor-tile.ts";
import { bf16Pieces, toBf16 } from "../library/products/to-bf16.ts";
import type { Device, WeightChunk } from "../plan/types.ts";
import { productOfWeights } from "./factors.ts";
import { type Bound, type Launch, rowsOf, type Scene, value } from "./tile.ts";

/**
 * The product of many vectors, by a piece of the matrix where it is cut: on tensor cores where the device has them and
 * they can read the matrix.
 */
export function manyTokens(
  spec: GemmShape,
  tokens: Dim,
  device: Device,
  piece: WeightChunk = { firstRow: 0, rows: spec.rows, bytes: 0 },
): Omit<Launch, "bind"> {
  if (onCores(spec, device)) {
    const { rows } = tensorTile(spec);
    return {
      product: spec,
      kernel: gemmTensor(spec),
      uniforms: { tokens },
      grid: [
        { of: tokens, per: tokensOfTile },
        { of: spec.rows, per: spec.epilogue.gate ? rows / 2 : rows },
      ],
    };
  }
  const tile = tileOf(device.threads);
  return {
    product: spec,
    kernel: gemm(spec, device),
    uniforms: { tokens, rows: piece.rows, rows_before: piece.firstRow },
    grid: [
      { of: spec.cut ? piece.rows : spec.rows, per: tile.rows },
      { of: tokens, per: tile.tokens },
    ],
  };
}

/** Whether tensor cores multiply that. */
export const onCores = (
  { format, cut, rows }: Pick<GemmShape, "format" | "cut" | "rows">,
  { tensorCores }: Device,
): boolean => tensorCores === true && tensorReads(format, rows) && !cut;

/** In how many parts of bf16 tensor cores read `v`, where nothing else does. */
function wantedParts(v: Value, scene: Scene): 1 | 2 | undefined {
  const { device } = scene;
  if (!device.tensorCores || rowsOf(v) === 1 || v.dtype !== "f32") return undefined;
  const only = (x: Value | undefined) => {
    const [reader, ...more] = (x && scene.readers(x)) ?? [];
    return more.length === 0 && reader && cast.of(reader) ? reader : undefined;
  };
  const rounding = only(only(v));
  const products = scene.readers(rounding ?? v)?.map((r) => productOfWeights(r, scene)) ?? [];
  const columns = products[0]?.columns ?? 1;
  // All of them in one binding, so that none is cut.
  const bytes = products.reduce(
    (sum, p) => sum + (p ? (p.rows * p.columns * bits[p.format.dtype]) / 8 : 0),
    0,
  );
  const fit = columns % 64 === 0 && bytes <= device.bindingBytes;
  if (!fit || !products.every((p) => p?.x === v && onCores(p, device))) return undefined;
  return rounding ? 1 : 2;
}

/** Where tensor cores find `v`, whoever brings it there. */
function roundedPlace(v: Value, columns: number, parts: 1 | 2, scene: Scene): Bound {
  const scratch = { rows: rowsOf(v), columns: parts * bf16Pieces(columns) * 4 };
  const bound: Bound = { kind: "scratch", scratch };
  scene.rounded.set(v, { bound, parts });
  return bound;
}

/** Where whoever makes `v` is to leave it: in up to `most` parts of bf16, where only tensor cores will read it, or as it is. */
export function leave(
  v: Value,
  scene: Scene,
  most: 1 | 2 = 2,
): { readonly bound: Bound; readonly leaves?: 1 | 2 } {
  const leaves = wantedParts(v, scene);
  return leaves && leaves <= most
    ? { bound: roundedPlace(v, v.fixed(-1), leaves, scene), leaves }
    : { bound: value(v) };
}

/** `x` as `manyTokens` reads it: as it stands in memory, or in the bf16 of tensor cores, which `before` leaves there. */
export function factor(
  x: Value,
  spec: GemmShape,
  scene: Scene,
): { readonly bound: Bound; readonly before: readonly Launch[] } {
  if (!onCores(spec, scene.device)) return { bound: value(x), before: [] };
  const [known, parts] = [scene.rounded.get(x), spec.rounds ? 1 : 2] as const;
  if (known?.parts === parts) return { bound: known.bound, before: [] };
  const [bound, tokens] = [roundedPlace(x, spec.columns, parts, scene), rowsOf(x)];
  const { threads } = scene.device;
  const launch: Launch = {
    kernel: toBf16(spec.columns, parts, threads),
    bind: { x: value(x), y: bound },
    uniforms: { tokens },
    grid: [{ of: times(tokens, bf16Pieces(spec.columns)), per: threads }],
  };
  return { bound, before: [launch] };
}
