import { type Dim, product, times } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import { type GemmShape, gemm, tileOf } from "../library/products/gemm.ts";
import { gemmTensor, tensorReads } from "../library/products/gemm-tensor.ts";
import { tensorTile, tokensOfTile } from "../library/products/tensor-tile.ts";
import { bf16Pieces, toBf16 } from "../library/products/to-bf16.ts";
import type { Device, WeightChunk } from "../plan/types.ts";
import { type Bound, type Launch, type Scene, value } from "./tile.ts";

/** How many rows of numbers there are. */
export const rowsOf = (v: Value): Dim => product(v.shape.slice(0, -1));

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

const onCores = ({ format, cut }: GemmShape, { tensorCores }: Device): boolean =>
  tensorCores === true && tensorReads(format) && !cut;

/** `x` as `manyTokens` reads it: as it stands in memory, or in the bf16 of tensor cores, which `before` leaves there. */
export function factor(
  x: Value,
  spec: GemmShape,
  scene: Scene,
): { readonly bound: Bound; readonly before: readonly Launch[] } {
  if (!onCores(spec, scene.device)) return { bound: value(x), before: [] };
  const known = scene.rounded.get(x);
  const [tokens, parts, pieces] = [rowsOf(x), spec.rounds ? 1 : 2, bf16Pieces(spec.columns)] as const;
  if (known?.parts === parts) return { bound: known.bound, before: [] };
  const bound: Bound = { kind: "scratch", scratch: { rows: tokens, columns: parts * pieces * 4 } };
  scene.rounded.set(x, { bound, parts });
  const { threads } = scene.device;
  const launch: Launch = {
    kernel: toBf16(spec.columns, parts, threads),
    bind: { x: value(x), y: bound },
    uniforms: { tokens },
    grid: [{ of: times(tokens, pieces), per: threads }],
  };
  return { bound, before: [launch] };
}
