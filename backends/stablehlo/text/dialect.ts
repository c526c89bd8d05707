import type { Mesh, Sharding } from "../../../ir/graph.ts";
import { roundTo } from "../../../ir/tensor.ts";
import { type DType, TensorType } from "../../../ir/type.ts";

/** Element types as MLIR spells them. */
export const element = {
  f32: "f32",
  f16: "f16",
  bf16: "bf16",
  i32: "i32",
  i8: "i8",
  u8: "ui8",
  i4: "i4",
  bool: "i1",
} as const satisfies Record<DType, string>;

/** A type whose sizes are all known, as MLIR writes it: `tensor<2x3xf32>`. Throws TypeError when one is symbolic. */
export function tensorType(t: TensorType): string {
  for (const d of t.shape)
    if (typeof d !== "number")
      throw new TypeError(`${t} has the size ${d}, and StableHLO wants numbers; bind the sizes first`);
  return `tensor<${[...t.shape, element[t.dtype]].join("x")}>`;
}

/** A finite number with a point. */
export function decimal(x: number): string {
  const [digits = "", exponent] = (Object.is(x, -0) ? "-0" : String(x)).split("e");
  const pointed = digits.includes(".") ? digits : `${digits}.0`;
  return exponent === undefined ? pointed : `${pointed}e${exponent}`;
}

const bits = { f32: 0x7f800000, f16: 0x7c00, bf16: 0x7f80 } as const;

/** One number of that type. Floats have a point, and infinity is spelled by its bits, as the grammar wants. */
export function literal(value: number, dtype: DType): string {
  const x = roundTo(dtype, value);
  if (dtype === "bool") return x ? "true" : "false";
  if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") return String(x);
  if (Number.isFinite(x)) return decimal(x);
  const sign = x < 0 ? (dtype === "f32" ? 0x80000000 : 0x8000) : 0;
  return `0x${(bits[dtype] + sign).toString(16).toUpperCase()}`;
}

/** `name` with what a value of MLIR cannot be called replaced; such a name never begins with a digit. */
export const identifier = (name: string): string =>
  name
    .replaceAll("/", ".")
    .replace(/[^\w.$-]/g, "_")
    .replace(/^(?![A-Za-z_])/, "_");

/** How a tensor is cut over the mesh, as Shardy writes it: `[{"data"}, {}]`. Axes are closed: nothing may be added. */
export const axesText = (sharding: Sharding): string =>
  `[${sharding.map((axis) => (axis === undefined ? "{}" : `{"${axis}"}`)).join(", ")}]`;

export const meshText = (mesh: Mesh): string =>
  `sdy.mesh @mesh = <[${Object.entries(mesh)
    .map(([axis, size]) => `"${axis}"=${size}`)
    .join(", ")}]>`;

export const sameShape = (a: readonly unknown[], b: readonly unknown[]): boolean =>
  a.length === b.length && a.every((d, i) => d === b[i]);

/** `t` with sizes known to be numbers. */
export const sizes = (t: TensorType): number[] => t.shape.map(Number);

export const typed = (dtype: DType, shape: readonly number[]): TensorType => new TensorType(dtype, shape);
