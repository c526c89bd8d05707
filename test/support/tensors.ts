import type { Weights } from "../../backends/weights.ts";
import type { Value } from "../../ir/graph.ts";
import type { HostTensor } from "../../ir/tensor.ts";
import type { DType } from "../../ir/type.ts";

const halfBits = (x: number): number => {
  const bits = new Uint32Array(Float32Array.of(Math.abs(x)).buffer)[0] as number;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(x) < 2 ** -14 ? Math.round(Math.abs(x) * 2 ** 24) : (bits >>> 13) - (112 << 10);
  return sign | magnitude;
};

/** The stored bytes of numbers that `dtype` holds exactly. */
const encoders: Readonly<Record<DType, (data: Float64Array) => Uint8Array>> = {
  f32: (d) => new Uint8Array(Float32Array.from(d).buffer),
  bf16: (d) =>
    new Uint8Array(Uint16Array.from(new Uint32Array(Float32Array.from(d).buffer), (b) => b >>> 16).buffer),
  f16: (d) => new Uint8Array(Uint16Array.from(d, halfBits).buffer),
  i32: (d) => new Uint8Array(Int32Array.from(d).buffer),
  i8: (d) => new Uint8Array(Int8Array.from(d).buffer),
  u8: (d) => Uint8Array.from(d),
  bool: (d) => Uint8Array.from(d),
  i4: (d) =>
    Uint8Array.from(
      { length: Math.ceil(d.length / 2) },
      (_, i) => (Number(d[2 * i]) & 15) | ((Number(d[2 * i + 1] ?? 0) & 15) << 4),
    ),
};

/** A checkpoint of `params` that holds `tensors`. */
export function weightsOf(params: readonly Value[], tensors: Readonly<Record<string, HostTensor>>): Weights {
  const bytes = new Map<string, Uint8Array>();
  const of = (name: string): Uint8Array => {
    const param = params.find((v) => v.attrs.name === name);
    const made =
      bytes.get(name) ?? encoders[param?.dtype ?? "f32"](tensors[name]?.data ?? new Float64Array());
    bytes.set(name, made);
    return made;
  };
  return {
    names: () => params.map((v) => String(v.attrs.name)),
    info: (name) => {
      const v = params.find((p) => p.attrs.name === name);
      return v && { dtype: v.dtype, shape: v.shape.map(Number), bytes: of(name).length };
    },
    read: async (name, offset, into) => into.set(of(name).subarray(offset, offset + into.length)),
    close: async () => {},
  };
}
