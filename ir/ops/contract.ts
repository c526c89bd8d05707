import { int, primitive } from "../op.ts";
import { count, stretched } from "../tensor.ts";
import { broadcast, isFloat, tensor } from "../type.ts";

const reduction = (
  name: string,
  doc: string,
  first: number,
  f: (acc: number, x: number) => number,
  last = (acc: number, _n: number) => acc,
) =>
  primitive(name, {
    doc: `${doc} The axis stays, with size 1.`,
    inputs: ["x"],
    attrs: { axis: int(-1) },
    example: [["f32[2,3]"]],
    infer: ({ x }, { axis }) => {
      if (!isFloat(x.dtype)) throw new TypeError(`needs a float, got ${x}; cast it first`);
      return x.resized(axis, 1);
    },
    eval: ({ x }, { axis }, { shape }) => {
      const k = axis < 0 ? axis + shape.length : axis;
      const n = x.shape[k] as number;
      const inner = count(shape.slice(k + 1));
      const data = new Float64Array(count(shape)).map((_, i) => {
        const at = Math.floor(i / inner) * n * inner + (i % inner);
        let acc = first;
        for (let j = 0; j < n; j++) acc = f(acc, x.data[at + j * inner] as number);
        return last(acc, n);
      });
      return { shape, data };
    },
  });

export const sum = reduction("sum", "Sum over one axis.", 0, (acc, x) => acc + x);
export const mean = reduction(
  "mean",
  "Average over one axis.",
  0,
  (acc, x) => acc + x,
  (acc, n) => acc / n,
);
export const max = reduction("max", "Largest over one axis.", Number.NEGATIVE_INFINITY, Math.max);

export const matmul = primitive("matmul", {
  doc: "Matrix product over the last two axes, batched over the others, which stretch. Accumulates in at least f32.",
  inputs: ["a", "b"],
  example: [["f32[2,3]", "f32[3,4]"]],
  infer: ({ a, b }) => {
    if (a.dtype !== b.dtype) throw new TypeError(`dtypes differ: ${a} and ${b}; cast one`);
    if (a.at(-1) !== b.at(-2))
      throw new TypeError(
        `inner sizes differ: ${a} ends in ${a.at(-1)} but ${b} has ${b.at(-2)} rows; transpose one?`,
      );
    const batch = broadcast(a.with({ shape: a.shape.slice(0, -2) }), b.with({ shape: b.shape.slice(0, -2) }));
    return tensor(a.dtype, ...batch, a.at(-2), b.at(-1));
  },
  eval: ({ a, b }, _, { shape }) => {
    const [m, n] = shape.slice(-2) as [number, number];
    const k = a.shape.at(-1) as number;
    const batch = shape.slice(0, -2);
    const ia = stretched(a.shape.slice(0, -2), batch);
    const ib = stretched(b.shape.slice(0, -2), batch);
    const data = new Float64Array(count(shape));
    ia.forEach((atA, i) => {
      const A = a.data.subarray(atA * m * k);
      const B = b.data.subarray((ib[i] as number) * k * n);
      for (let r = 0; r < m; r++) {
        const row = data.subarray((i * m + r) * n, (i * m + r + 1) * n);
        for (let j = 0; j < k; j++) {
          const x = A[r * k + j] as number;
          for (let c = 0; c < n; c++) row[c] = (row[c] as number) + x * (B[j * n + c] as number);
        }
      }
    });
    return { shape, data };
  },
});
