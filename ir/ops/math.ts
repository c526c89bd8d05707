import { int, primitive } from "../op.ts";
import { count, type HostTensor, stretched } from "../tensor.ts";
import { broadcast, isFloat, type TensorType, tensor } from "../type.ts";

const unary = (name: string, doc: string, f: (x: number) => number) =>
  primitive(name, {
    doc,
    inputs: ["x"],
    example: [["f32[2,3]"]],
    infer: ({ x }) => {
      if (!isFloat(x.dtype)) throw new TypeError(`needs a float, got ${x}; cast it first`);
      return x;
    },
    eval: ({ x }) => ({ shape: x.shape, data: x.data.map(f) }),
  });

function sameDtype(a: TensorType, b: TensorType): void {
  if (a.dtype !== b.dtype) throw new TypeError(`dtypes differ: ${a} and ${b}; cast one`);
}

function zipWith(
  f: (x: number, y: number) => number,
  a: HostTensor,
  b: HostTensor,
  shape: readonly number[],
): HostTensor {
  const [left, right] = [entries(a, shape), entries(b, shape)];
  const data = new Float64Array(count(shape));
  for (let i = 0; i < data.length; i++) data[i] = f(left(i), right(i));
  return { shape, data };
}

/** Reads `t` as if it had `shape`. */
function entries({ shape: own, data }: HostTensor, shape: readonly number[]): (i: number) => number {
  if (data.length === count(shape)) return (i) => data[i] as number;
  if (data.length === 1) return () => data[0] as number;
  const from = stretched(own, shape);
  return (i) => data[from[i] as number] as number;
}

const binary = (name: string, doc: string, f: (a: number, b: number) => number, commutative = false) =>
  primitive(name, {
    doc: `${doc} Operands stretch to a common shape.`,
    inputs: ["a", "b"],
    example: [["f32[2,3]", "f32[3]"]],
    commutative,
    infer: ({ a, b }) => {
      sameDtype(a, b);
      return a.with({ shape: broadcast(a, b) });
    },
    eval: ({ a, b }, _, { shape }) => zipWith(f, a, b, shape),
  });

const comparison = (name: string, doc: string, f: (a: number, b: number) => boolean) =>
  primitive(name, {
    doc: `${doc} Operands stretch to a common shape.`,
    inputs: ["a", "b"],
    example: [["i32[2,3]", "i32[3]"]],
    infer: ({ a, b }) => {
      sameDtype(a, b);
      return tensor("bool", ...broadcast(a, b));
    },
    eval: ({ a, b }, _, { shape }) => zipWith((x, y) => Number(f(x, y)), a, b, shape),
  });

export const exp = unary("exp", "e to the x.", Math.exp);
export const tanh = unary("tanh", "Hyperbolic tangent.", Math.tanh);
export const erf = unary("erf", "Gauss error function.", erfOf);
export const sin = unary("sin", "Sine of x radians.", Math.sin);
export const cos = unary("cos", "Cosine of x radians.", Math.cos);
export const sqrt = unary("sqrt", "Square root.", Math.sqrt);
export const rsqrt = unary("rsqrt", "One over the square root.", (x) => 1 / Math.sqrt(x));

export const add = binary("add", "Sum.", (a, b) => a + b, true);
export const sub = binary("sub", "Difference.", (a, b) => a - b);
export const mul = binary("mul", "Product.", (a, b) => a * b, true);
export const div = binary("div", "Quotient.", (a, b) => a / b);
export const pow = binary("pow", "a to the power of b.", (a, b) => a ** b);
export const maximum = binary("maximum", "The larger of a and b.", Math.max, true);
export const minimum = binary("minimum", "The smaller of a and b.", Math.min, true);

export const mod = primitive("mod", {
  doc: "Remainder of x / by for integers: 0 to by - 1, whatever the sign of x.",
  inputs: ["x"],
  attrs: { by: int() },
  example: [["i32[2,3]"], { by: 2 }],
  infer: ({ x }, { by }) => {
    if (isFloat(x.dtype) || x.dtype === "bool")
      throw new TypeError(`needs integers, got ${x}; cast it first`);
    if (by < 1) throw new TypeError(`by is ${by}; give a number from 1`);
    return x;
  },
  eval: ({ x }, { by }) => ({ shape: x.shape, data: x.data.map((n) => n - by * Math.floor(n / by)) }),
});

export const less_equal = comparison("less_equal", "Whether a <= b.", (a, b) => a <= b);

export const select = primitive("select", {
  doc: "Where cond holds a, elsewhere b. Operands stretch to a common shape.",
  inputs: ["cond", "a", "b"],
  example: [["bool[3]", "f32[2,3]", "f32[2,1]"]],
  infer: ({ cond, a, b }) => {
    if (cond.dtype !== "bool")
      throw new TypeError(`the condition is ${cond}; compare something to get a bool`);
    sameDtype(a, b);
    return a.with({ shape: broadcast(cond, a, b) });
  },
  eval: ({ cond, a, b }, _, { shape }) => {
    const ia = stretched(a.shape, shape);
    const ib = stretched(b.shape, shape);
    const data = Float64Array.from(stretched(cond.shape, shape), (o, i) =>
      cond.data[o] ? (a.data[ia[i] as number] as number) : (b.data[ib[i] as number] as number),
    );
    return { shape, data };
  },
});

/** 2/√π · ∑ (-1)ⁿ x^(2n+1) / (n! (2n+1)) near zero, and Laplace's continued fraction of 1 - erf(x) beyond (DLMF 7.6, 7.9). */
function erfOf(x: number): number {
  const z = Math.abs(x);
  if (!(z < 6)) return Number.isNaN(x) ? x : Math.sign(x);
  if (z < 2.5) {
    let [term, sum] = [x, x];
    for (let n = 1; n < 60; n++) {
      term *= -(x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction));
}
