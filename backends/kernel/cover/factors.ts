import type { Value } from "../../../ir/graph.ts";
import { constant, linear, quant_linear } from "../../../ir/ops/index.ts";
import { rounded, unrounded } from "../../../passes/specialize/narrow.ts";
import { type Format, isStored } from "../library/format.ts";
import { tensorReads } from "../library/products/gemm-tensor.ts";
import type { PackedWeight } from "../plan/types.ts";
import { rowsOf, type Scene } from "./tile.ts";

/** A product by a stored matrix, as linear or quant_linear spells it. */
export interface Product {
  readonly x: Value;
  readonly rows: number;
  readonly columns: number;
  readonly format: Format;
  /** The matrix's codes or floats, then scales and zeros where it has them. */
  readonly weights: readonly Value[];
  /** Whether the graph rounds x to bf16 first, which tensor cores do on their way. A single vector is multiplied as it is. */
  readonly rounds: boolean;
  /** The same product of another vector. */
  over(x: Value): Value;
}

/** `v` as a product that the kernels can read. */
export function productOfWeights(v: Value, scene: Pick<Scene, "stored" | "device">): Product | undefined {
  const factorOf = (x: Value, format: Format, rows: number) => {
    const asIs = rowsOf(x) === 1 || tensorReads(format, rows);
    const source = scene.device.tensorCores && asIs ? unrounded(x, "bf16") : undefined;
    return {
      x: source ?? x,
      rounds: source !== undefined,
      again: (other: Value) => (source ? rounded(other, "bf16") : other),
    };
  };
  const plain = linear.of(v);
  if (plain) {
    const stored = scene.stored(plain.w);
    if (stored?.type.rank !== 2 || !isStored(stored.dtype) || v.dtype !== "f32") return undefined;
    const columns = stored.fixed(1);
    if (columns % 4 !== 0 || stored.dtype === "i8" || stored.dtype === "i4") return undefined;
    const format = { dtype: stored.dtype, block: 0, zero: false };
    const { again, ...factor } = factorOf(plain.x, format, stored.fixed(0));
    return {
      ...factor,
      rows: stored.fixed(0),
      columns,
      format,
      weights: [stored],
      over: (x) => linear(again(x), plain.w),
    };
  }
  const coded = quant_linear.of(v);
  if (!coded) return undefined;
  const stored = storedCodes(coded.codes, coded.scale, coded.zero, scene);
  if (!stored) return undefined;
  const { again, ...factor } = factorOf(coded.x, stored.format, coded.codes.fixed(0));
  return {
    ...factor,
    rows: coded.codes.fixed(0),
    columns: coded.codes.fixed(1),
    ...stored,
    over: (x) => quant_linear(again(x), coded.codes, coded.scale, coded.zero),
  };
}

/** How codes with these scales and zeros are stored, if the kernels can read them. */
export function storedCodes(
  codes: Value,
  scale: Value,
  zero: Value,
  scene: Pick<Scene, "stored">,
): Pick<Product, "format" | "weights"> | undefined {
  const { dtype } = codes;
  if (dtype !== "i8" && dtype !== "i4") return undefined;
  const [columns, blocks] = [codes.fixed(1), scale.fixed(1)];
  const block = columns / blocks;
  const step = dtype === "i8" ? 16 : 32;
  const fits =
    columns % 4 === 0 && block % 4 === 0 && (block % step === 0 || step % block === 0 || blocks === 1);
  const isZero = zero.op === constant && zero.attrs.value === 0;
  const scales = scene.stored(scale);
  if (scales?.dtype !== "f32" && scales?.dtype !== "f16") return undefined;
  const others = [codes, ...(isZero ? [] : [zero])];
  if (!fits || (!isZero && zero.type.rank !== 2) || !others.every((w) => scene.stored(w) === w))
    return undefined;
  const format = { dtype, block, zero: !isZero, ...(scales.dtype === "f16" && { halfScales: true }) };
  return { format, weights: [codes, scales, ...others.slice(1)] };
}

/** The buffers that `Matrix` declares, for products whose matrices lie below one another. */
export function packed(
  products: readonly Product[],
  scene: Scene,
): readonly [name: string, weight: PackedWeight][] {
  const names = ["weight", "scales", "zeros"];
  const first = products[0] as Product;
  const partsOf = (i: number) => products.map((p) => p.weights[i] as Value);
  const matrix = scene.pack(partsOf(0), "matrix");
  return first.weights.map((_, i) => [
    names[i] as string,
    i === 0 ? matrix : scene.pack(partsOf(i), "numbers", matrix),
  ]);
}

/** Whether two products can be one: of the same vector, with matrices stored alike. */
export const alike = (a: Product, b: Product): boolean =>
  a.x === b.x &&
  a.rounds === b.rounds &&
  a.columns === b.columns &&
  a.format.dtype === b.format.dtype &&
  a.format.block === b.format.block &&
  a.format.zero === b.format.zero &&
  a.format.halfScales === b.format.halfScales;
