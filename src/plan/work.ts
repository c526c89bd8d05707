import { headRows, type ModelFacts } from "../../backends/backend.ts";
import { byteLength } from "../../backends/stream/index.ts";
import { size } from "../../ir/dim.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import {
  block_scale_search,
  linear,
  param,
  preparations,
  quant_linear,
  quantize,
} from "../../ir/ops/index.ts";
import { dtypes } from "../../ir/type.ts";
import { rowParts } from "../../passes/fold-weights.ts";
import { fuseLinear } from "../../passes/fusion/fuse.ts";
import type { Law } from "../../passes/pass.ts";
import { moves, proofTokens, roundingProducts, twinGraph } from "../verify/proof.ts";
import type { CodedProduct } from "../verify/rounding.ts";

/** How numbers become codes. */
export interface Coding {
  readonly to: "i8" | "i4";
  readonly block: number;
  readonly around: "zero" | "middle";
  /** Whether scales are searched for. */
  readonly search: boolean;
}

/** Numbers of matrices that the interpreter multiplies with so many rows, as they are stored or rounded to codes first. */
export interface Products {
  readonly numbers: number;
  /** Bytes that they are read from. */
  readonly stored: number;
  readonly rows: number;
  readonly coding?: Coding;
}

/** What compiling does, counted; a test holds it to what compile then does. */
export interface Work {
  /** Bytes of the checkpoint, and of the artifact. */
  readonly read: number;
  readonly written: number;
  /** Numbers that become codes, and others that are not copied as they are stored. */
  readonly coded: readonly { readonly numbers: number; readonly coding: Coding }[];
  readonly widened: number;
  readonly proof: {
    readonly products: readonly Products[];
    /** Numbers of matrices that ONNX Runtime multiplies with: as the artifact runs, and in f32. */
    readonly asRun: number;
    readonly inFloats: number;
  };
}

interface WorkRequest {
  readonly original: Graph;
  /** Ready to emit. */
  readonly compiled: Graph;
  readonly laws: readonly Law[];
  readonly facts: ModelFacts;
  readonly activations: Readonly<Record<string, string>>;
  /** Of the whole artifact. */
  readonly bytes: number;
  /** Whether ONNX Runtime proves the artifact in pieces. */
  readonly onnx: boolean;
}

/** Counts what compiling will do. */
export function workOf(request: WorkRequest): Work {
  const { original, compiled, laws, bytes, onnx } = request;
  const made = compiled.weights().flatMap((w) => rowParts(recipe(w, compiled)));
  const widened = made.filter((v) => v.op.name !== "param" && !coding.has(v.op));
  const rounding = onnx ? roundingProducts(request) : [];
  const twin = productsOf(twinGraph(request, rounding));
  const loss = laws.some(moves) ? productsOf(original) : [];
  return {
    read: sum(compiled.stored().map(byteLength)),
    written: bytes,
    coded: made.flatMap((v) =>
      v.op === quantize ? [{ numbers: elements(v), coding: codingOf(v.inputs[1] as Value) }] : [],
    ),
    widened: sum(widened.map(elements)),
    proof: {
      products: [...twin, ...loss],
      ...(onnx ? runtimeWork(request, rounding) : { asRun: 0, inFloats: 0 }),
    },
  };
}

/** What stands behind a param that the setup makes. */
const recipe = (w: Value, g: Graph): Value => g.setup[String(w.attrs.name)] ?? w;
const coding: ReadonlySet<unknown> = new Set(Object.values(preparations));
const elements = (v: Value): number => byteLength(v) / (dtypes[v.dtype] / 8);
export const sum = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0);

function codingOf(scale: Value): Coding {
  const {
    to,
    block,
    around = "zero",
  } = scale.attrs as unknown as Omit<Coding, "search" | "around"> & Partial<Coding>;
  return { to, block, around, search: scale.op === block_scale_search };
}

/** A product by a weight, with what its matrix is made of. */
interface Product {
  readonly v: Value;
  readonly matrix: Value;
}

function weightProducts(g: Graph): Product[] {
  const still = (v: Value): boolean => (v.op === param ? !g.inputs.includes(v) : v.inputs.every(still));
  return g.values().flatMap((v) => {
    const w = quant_linear.of(v)?.codes ?? linear.of(v)?.w;
    return w && still(w) ? [{ v, matrix: w }] : [];
  });
}

/** The products by weights of what the interpreter runs. */
function productsOf(g: Graph): Products[] {
  const fused = fuseLinear().run(g);
  const sizes = { B: 1, T: proofTokens, P: 0, R: proofTokens };
  return weightProducts(fused).map(({ v, matrix }) => {
    const rows = v.shape.slice(0, -1).reduce<number>((n, d) => n * size(d, sizes), 1);
    const codes = quantizedIn(matrix, fused);
    const stored = sum(storedFor(matrix, fused).map(byteLength));
    return {
      numbers: elements(matrix),
      stored,
      rows,
      ...(codes && { coding: codingOf(codes.inputs[1] as Value) }),
    };
  });
}

/** The codes that a matrix is made of, if it is. */
function quantizedIn(v: Value, g: Graph): Value | undefined {
  const made = v.op === param ? recipe(v, g) : v;
  if (made.op === quantize) return made;
  return made.inputs.map((i) => quantizedIn(i, g)).find((found) => found !== undefined);
}

/** What a matrix is read from. */
function storedFor(v: Value, g: Graph): Value[] {
  const made = v.op === param ? recipe(v, g) : v;
  if (made.op === param) return [made];
  // Codes, scales and zeros are made from the same numbers.
  return [...new Set(made.inputs.flatMap((i) => storedFor(i, g)))];
}

/** What ONNX Runtime multiplies with. Of a large head that is its first rows. */
function runtimeWork(
  request: WorkRequest,
  rounding: readonly CodedProduct[],
): Pick<Work["proof"], "asRun" | "inFloats"> {
  const { compiled, facts } = request;
  const named = new Map(rounding.map((p) => [p.product, p]));
  let [asRun, inFloats] = [0, 0];
  for (const { v, matrix } of weightProducts(compiled)) {
    const numbers = elements(matrix);
    const found = named.get(compiled.origins.get(v) ?? "");
    if (found) asRun += numbers;
    const isHead = v.shape.at(-1) === facts.vocab;
    if (!found?.factor) inFloats += isHead ? numbers * Math.min(1, headRows / facts.vocab) : numbers;
  }
  return { asRun, inFloats };
}
