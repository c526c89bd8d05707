import { type Dim, product as productOf } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Op, Schema } from "../../../ir/op.ts";
import { add, geglu, gelu, gelu_erf, mul, silu, slice, softcap } from "../../../ir/ops/index.ts";
import type { Activation } from "../library/math.ts";
import { type Cut, type Epilogue, gemv, rowsOfGroup } from "../library/products/gemv.ts";
import type { Device, PackedWeight, WeightChunk } from "../plan/types.ts";
import { alike, type Product, packed, productOfWeights } from "./factors.ts";
import { type Input, inputs, Shared } from "./input.ts";
import { factor, leave, manyTokens, onCores } from "./many-tokens.ts";
import {
  type Bound,
  binds,
  type Launch,
  type Match,
  rowsOf,
  type Scene,
  type Tile,
  value,
  whole,
} from "./tile.ts";

export const cutFor = (d: Device): Cut => ({ threads: d.threads, lanes: d.lanes, prefetch: d.prefetch });

/** What comes before and after a product. */
interface Shape {
  readonly products: readonly Product[];
  readonly epilogue: Epilogue;
  readonly residual?: Value;
  /** What is left when the product is `p`. */
  rebuild(products: readonly Value[]): Value;
}

const gates: readonly { readonly op: Op<readonly ["x"], Schema>; readonly name: Activation }[] = [
  { op: gelu, name: "gelu" },
  { op: gelu_erf, name: "gelu_erf" },
  { op: silu, name: "silu" },
] as never;

/** Reads `v` from its end: what is added, gated or capped after products that nothing else reads. */
function shapeOf(v: Value, scene: Scene): Shape | undefined {
  const only = (x: Value | undefined) => (x && scene.uses(x) === 1 ? productOfWeights(x, scene) : undefined);
  const itself = productOfWeights(v, scene);
  if (itself) return { products: [itself], epilogue: {}, rebuild: ([p]) => p as Value };
  const sum = add.of(v);
  if (sum?.a.type.equals(sum.b.type)) {
    const b = only(sum.b);
    if (b)
      return {
        products: [b],
        epilogue: { residual: true },
        residual: sum.a,
        rebuild: ([p]) => add(sum.a, p as Value),
      };
    const a = only(sum.a);
    if (a)
      return {
        products: [a],
        epilogue: { residual: true },
        residual: sum.b,
        rebuild: ([p]) => add(p as Value, sum.b),
      };
  }
  const cap = softcap.of(v);
  const inside = only(cap?.x);
  if (cap && inside)
    return {
      products: [inside],
      epilogue: { softcap: cap.attrs.cap },
      rebuild: ([p]) => softcap(p as Value, cap.attrs),
    };
  const glu = geglu.of(v);
  if (glu) {
    const [gate, up] = [only(glu.gate), only(glu.up)];
    if (gate && up && alike(gate, up))
      return {
        products: [gate, up],
        epilogue: { gate: "gelu" },
        rebuild: ([g, u]) => geglu(g as Value, u as Value),
      };
  }
  const gated = mul.of(v);
  if (gated)
    for (const { op, name } of gates)
      for (const [first, second] of [
        [gated.a, gated.b],
        [gated.b, gated.a],
      ] as const) {
        const act = op.of(first);
        const [gate, up] = [scene.uses(first) === 1 ? only(act?.x) : undefined, only(second)];
        if (gate && up && alike(gate, up))
          return {
            products: [gate, up],
            epilogue: { gate: name },
            rebuild: ([g, u]) => mul(op(g as Value), u as Value),
          };
      }
  return undefined;
}

/** Products of one vector that leave a sum besides. */
const joining = new Shared((v, scene) => {
  const found = find(v, scene);
  return found && found.makes.length > 1 ? found : undefined;
});

export const product: Tile = {
  name: "product",
  match: (v, scene) => joining.match(v, scene) ?? find(v, scene),
};

function find(v: Value, scene: Scene): Match | undefined {
  const shape = shapeOf(v, scene);
  const first = shape?.products[0];
  if (!shape || !first || shape.products.some((p) => p.rows !== first.rows)) return undefined;
  const tokens = rowsOf(first.x);
  return tokens === 1 ? vector(v, shape, first, scene) : matrix(v, shape, first, tokens, scene);
}

/** One vector: the norm before it is part of the walk over the vector. */
function vector(v: Value, shape: Shape, first: Product, scene: Scene): Match | undefined {
  const weights = packed(shape.products, scene);
  const main = weights[0]?.[1] as PackedWeight;
  const chunks = [...main.chunks.keys()];
  const cut = chunks.length > 1;
  const gated = shape.epilogue.gate !== undefined;
  if (cut && gated) return undefined;
  const rows = gated ? main.rows / 2 : main.rows;
  const cutting = cutFor(scene.device);
  const written = (input: Input) => {
    const picked = input.makes.length === 0 ? pickedRow(input.x) : undefined;
    const spec = {
      rows: cut ? ("uniform" as const) : rows,
      columns: first.columns,
      format: first.format,
      ...(input.norm && { norm: input.norm }),
      pickRow: picked !== undefined,
      epilogue: shape.epilogue,
    };
    return { input, picked, spec, kernel: gemv(spec, cutting) };
  };
  const ways = inputs(first.x, shape.products.length, scene);
  // What is added at the end may need the sum itself.
  const usable = shape.residual ? ways.filter((w) => w.makes.length === 0) : ways;
  const best = usable.map(written).find(({ kernel }) => binds(kernel, scene.device));
  if (!best) return undefined;
  const { input, picked, spec, kernel } = best;
  const x = picked?.x ?? input.x;
  const again = input.over(picked ? slice(x, picked.attrs) : x);
  // As many pieces to a launch as it can bind beside the rest.
  const most = 1 + Math.floor((scene.device.buffers - kernel.buffers.length) / weights.length);
  return {
    makes: [v, ...input.makes],
    rebuilt: [shape.rebuild(shape.products.map((p) => p.over(again))), ...input.rebuilt],
    needs: [x, ...input.needs, ...(shape.residual ? [shape.residual] : [])],
    launches: () =>
      inGroups(chunks, most).map((own): Launch => {
        const bound = own.map((chunk) => main.chunks[chunk] as WeightChunk);
        const firstRow = bound[0]?.firstRow ?? 0;
        const count = bound.reduce((n, { rows: more }) => n + more, 0);
        const part = (of: Value): Bound =>
          cut ? { kind: "part", value: of, offset: firstRow * 4, bytes: count * 4 } : value(of);
        const bind: Record<string, Bound> = { x: value(x), ...input.bind(), y: part(v) };
        if (shape.residual) bind.residual = part(shape.residual);
        const uniforms: Record<string, Dim> = { rows: count, row: picked?.attrs.from ?? 0 };
        own.forEach((chunk, i) => {
          for (const [name, w] of weights) bind[nth(name, i)] = chunkOf(w, main, chunk);
          if (i > 0) uniforms[nth("begins", i - 1)] = (bound[i]?.firstRow ?? 0) - firstRow;
        });
        return {
          kernel: own.length > 1 ? gemv({ ...spec, pieces: own.length }, cutting) : kernel,
          bind,
          uniforms,
          grid: [{ of: cut ? count : rows, per: rowsOfGroup(spec, cutting) }],
        };
      }),
  };
}

/** `all` in runs of at most `most`. */
export const inGroups = <T>(all: readonly T[], most: number): T[][] =>
  Array.from({ length: Math.ceil(all.length / most) }, (_, i) => all.slice(i * most, (i + 1) * most));
/** What a kernel calls its buffer or uniform `name` of piece `i`. */
export const nth = (name: string, i: number): string => (i === 0 ? name : `${name}${i + 1}`);

/** A row of a matrix needs no copy; the launch says which it is. */
function pickedRow(x: Value) {
  const cut = slice.of(x);
  if (!cut) return undefined;
  const axis = cut.x.type.axis(cut.attrs.axis);
  return productOf(cut.x.shape.slice(0, axis)) === 1 && axis === cut.x.type.rank - 2 ? cut : undefined;
}

/** The rows of `w` that go with a chunk of the matrix. Scales are small, and may all be in one piece. */
export function chunkOf(w: PackedWeight, main: PackedWeight, chunk: number): Bound {
  const rows = main.chunks[chunk];
  if (w.chunks[chunk]?.rows === rows?.rows) return whole(w, chunk);
  if (w.chunks.length > 1 || !rows) throw new TypeError(`${w.name} does not fit one binding`);
  return {
    kind: "weight",
    weight: w,
    chunk: 0,
    offset: rows.firstRow * w.rowBytes,
    bytes: rows.rows * w.rowBytes,
  };
}

/** Many vectors at once. */
function matrix(v: Value, shape: Shape, first: Product, tokens: Dim, scene: Scene): Match | undefined {
  const weights = packed(shape.products, scene);
  const main = weights[0]?.[1] as PackedWeight;
  const pieces = main.chunks;
  const cut = pieces.length > 1;
  if (cut && shape.epilogue.gate) return undefined;
  const spec = {
    rows: shape.epilogue.gate ? main.rows / 2 : main.rows,
    columns: first.columns,
    format: first.format,
    epilogue: shape.epilogue,
    cut,
    rounds: first.rounds,
  };
  return {
    makes: [v],
    rebuilt: [shape.rebuild(shape.products.map((p) => p.over(first.x)))],
    needs: [first.x, ...(shape.residual ? [shape.residual] : [])],
    launches: () => {
      const x = factor(first.x, spec, scene);
      const left = shape.epilogue.gate && onCores(spec, scene.device) ? leave(v, scene) : { bound: value(v) };
      const { bound: y, ...leaves } = left;
      const products = pieces.map((piece, chunk): Launch => {
        const bind: Record<string, Bound> = { x: x.bound, y };
        if (shape.residual) bind.residual = value(shape.residual);
        for (const [name, w] of weights) bind[name] = chunkOf(w, main, chunk);
        return { ...manyTokens({ ...spec, ...leaves }, tokens, scene.device, piece), bind };
      });
      return [...x.before, ...products];
    },
  };
}
