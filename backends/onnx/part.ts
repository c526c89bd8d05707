import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { onnx } from "onnx-proto";
import { headRows, type Named } from "../backend.ts";
import { modelFile } from "./emit.ts";
import { decodeModel, elementType, encodeProto, inFloats, rounds, untyped } from "./proto.ts";
import { createSession, emptyCaches, loadRuntime, type Tensor } from "./session.ts";

/** An ONNX artifact that is run piece by piece, so that few weights at a time are in memory. */
export class Parts {
  readonly #path: string;
  readonly #graph: onnx.IGraphProto;
  readonly #model: onnx.ModelProto;
  readonly #makers = new Map<string, onnx.INodeProto>();

  private constructor(path: string, model: onnx.ModelProto, graph: onnx.IGraphProto) {
    this.#path = path;
    this.#model = model;
    this.#graph = graph;
    for (const node of graph.node ?? [])
      for (const output of node.output ?? []) this.#makers.set(output, node);
  }

  static async open(dir: string): Promise<Parts> {
    const path = join(dir, modelFile);
    const model = decodeModel(await readFile(path));
    if (!model.graph) throw new Error(`${path} holds no graph`);
    return new Parts(path, model, model.graph);
  }

  /** Whether caches have a fixed size. */
  get hasSlots(): boolean {
    return this.#graph.input?.some((i) => i.name === "start") ?? false;
  }

  /** Whether products round what they multiply, as the runtime does fastest. */
  get rounds(): boolean {
    return this.#graph.node?.some(rounds) ?? false;
  }

  /**
   * Computes `wanted` from `given` and from what clients feed. Of what is given only the parts needed count; what is
   * given and wanted too is computed from the rest. A large head gives its first rows only, other large products are
   * computed some rows of their matrix at a time, so that it has no more than `numbers`. Products round only where they are
   * wanted `asRun`.
   */
  async run(
    given: readonly Named[],
    feeds: Readonly<Record<string, Tensor>>,
    wanted: readonly string[],
    { asRun = false, numbers = sliceNumbers } = {},
  ): Promise<Map<string, Float32Array>> {
    const starts = new Set(given.map((t) => t.name));
    // What is given goes by another name, as a node may yield it next to what is wanted.
    const nodes = this.#between(starts, wanted).map((n) => ({
      ...(asRun ? n : inFloats(n)),
      input: n.input?.map((i) => (starts.has(i) ? alias(i) : i)) ?? [],
    }));
    const read = new Set(nodes.flatMap((n) => n.input ?? []));
    const tensors = (this.#graph.initializer ?? []).filter((t) => read.has(t.name ?? ""));
    const input = [
      ...(this.#graph.input ?? []).filter((i) => read.has(i.name ?? "")),
      ...given.filter((t) => read.has(alias(t.name))).map(({ name, dims }) => inputOf(alias(name), dims)),
    ];
    const used = given.filter((t) => read.has(alias(t.name))).map((t) => ({ ...t, name: alias(t.name) }));
    const part: Part = { node: lookedUpFirst(nodes, tensors), initializer: tensors, input };
    const head = wanted.includes("logits") ? this.#head() : undefined;
    const product = head ? part.node.find((n) => n.output?.[0] === head) : onlyProduct(part, wanted);
    const matrix = product && matrixOf(part, product);
    const rows = head ? Math.min(matrix?.rows ?? 0, headRows) : (matrix?.rows ?? 0);
    if (!matrix || (rows === matrix.rows && rows * matrix.columns <= numbers))
      return this.#compute(part, used, feeds, wanted);
    const step = Math.max(1, Math.floor(numbers / matrix.columns));
    const slices: ReadonlyMap<string, Float32Array>[] = [];
    for (let from = 0; from < rows; from += step) {
      const slice = rowsOf(part, product, from, Math.min(step, rows - from));
      slices.push(await this.#compute(slice, used, feeds, wanted));
    }
    const all = (name: string) => slices.map((s) => s.get(name) as Float32Array);
    return new Map(wanted.map((name) => [name, besideEachOther(all(name), rows)]));
  }

  async #compute(
    part: Part,
    given: readonly Named[],
    feeds: Readonly<Record<string, Tensor>>,
    wanted: readonly string[],
  ): Promise<Map<string, Float32Array>> {
    const { Tensor } = await loadRuntime();
    const graph = { ...this.#graph, ...part, output: wanted.map(untyped) };
    const session = await createSession(encodeProto({ ...this.#model, graph }), dirname(this.#path));
    try {
      const own = given.map((t) => [t.name, new Tensor("float32", t.data, t.dims)] as const);
      const all = { ...(await emptyCaches(session.inputMetadata)), ...feeds, ...Object.fromEntries(own) };
      const out = await session.run(
        Object.fromEntries(session.inputNames.map((name) => [name, all[name] as Tensor])),
      );
      return new Map(wanted.map((name) => [name, out[name]?.data as Float32Array]));
    } finally {
      await session.release();
    }
  }

  /** The output of the product that gives the scores, before they are bounded or given another shape. */
  #head(): string | undefined {
    const open = ["logits"];
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      const node = this.#makers.get(name);
      if (isProduct(node)) return name;
      open.push(...(node?.input ?? []));
    }
    return undefined;
  }

  /** The nodes on the way from `starts` to `wanted`, in the file's order. */
  #between(starts: ReadonlySet<string>, wanted: readonly string[]): onnx.INodeProto[] {
    const needed = new Set<onnx.INodeProto>();
    const open = [...wanted];
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      const node = this.#makers.get(name);
      if (!node || needed.has(node)) continue;
      needed.add(node);
      open.push(...(node.input ?? []).filter((i) => !starts.has(i)));
    }
    return (this.#graph.node ?? []).filter((n) => needed.has(n));
  }
}

const alias = (name: string): string => `${name}/given`;

const inputOf = (name: string, dims: readonly number[]): onnx.IValueInfoProto => ({
  name,
  type: { tensorType: { elemType: elementType.f32, shape: { dim: dims.map((dimValue) => ({ dimValue })) } } },
});

const isProduct = (n: onnx.INodeProto | undefined): boolean =>
  n?.opType === "Gemm" || n?.opType === "MatMulNBits";

/** Numbers of a matrix that are in memory at once, as floats too, where its product or the scores are wanted alone. */
export const sliceNumbers = 2 ** 23;

/** What of a graph is run. */
interface Part {
  readonly node: onnx.INodeProto[];
  readonly initializer: onnx.ITensorProto[];
  readonly input: onnx.IValueInfoProto[];
}

const widens = (n: onnx.INodeProto | undefined): boolean =>
  n?.opType === "Cast" || n?.opType === "DequantizeLinear";
const attribute = (n: onnx.INodeProto, name: string): number =>
  Number(n.attribute?.find((a) => a.name === name)?.i ?? 0);

/** The tensors that the matrix of a product is made of: codes and their scales, or numbers. */
function storedFor({ node, initializer }: Part, product: onnx.INodeProto): readonly onnx.ITensorProto[] {
  const maker = node.find((n) => n.output?.[0] === product.input?.[1]);
  const names = new Set(widens(maker) ? maker?.input : product.input?.slice(1));
  return initializer.filter((t) => names.has(t.name ?? ""));
}

/** The size of the matrix of a product, if that lies in the data files row by row. */
function matrixOf(part: Part, product: onnx.INodeProto): { rows: number; columns: number } | undefined {
  const [rows, columns] = storedFor(part, product)[0]?.dims?.map(Number) ?? [];
  return rows && columns ? { rows, columns: attribute(product, "K") || columns } : undefined;
}

/** The only product of a part, if all that is wanted is what it gives, in another shape at most. */
function onlyProduct({ node }: Part, [wanted, ...others]: readonly string[]): onnx.INodeProto | undefined {
  const [product, another] = node.filter(isProduct);
  const shaped = node.find((n) => n.opType === "Reshape" && n.output?.[0] === wanted)?.input?.[0];
  const found = product?.output?.[0];
  return others.length === 0 && !another && (found === wanted || found === shaped) ? product : undefined;
}

/**
 * Some rows of a table are widened after they are looked up: the whole of it, as floats, may be the largest matrix there
 * is. Codes and their scales are looked up alike; codes of 4 bits cannot be.
 */
function lookedUpFirst(
  nodes: readonly onnx.INodeProto[],
  tensors: readonly onnx.ITensorProto[],
): onnx.INodeProto[] {
  const narrow = new Set(tensors.flatMap((t) => (t.dataType === elementType.i4 ? [t.name] : [])));
  const widened = new Set<string>();
  const swapped = nodes.flatMap((n) => {
    const [table = "", index = ""] = n.input ?? [];
    const widening = nodes.find((w) => widens(w) && w.output?.[0] === table);
    if (n.opType !== "Gather" || !widening || widening.input?.some((t) => narrow.has(t))) return [n];
    widened.add(table);
    const found = (i: number) => `${n.output?.[0]}/stored.${i}`;
    // Ids have axes of their own; that of the blocks stays the last.
    const last = (widening.attribute ?? []).map((a) => (a.name === "axis" ? { ...a, i: -1 } : a));
    const input = widening.input ?? [];
    return [
      ...input.map((t, i) => ({ ...n, name: `${n.name}/${i}`, input: [t, index], output: [found(i)] })),
      {
        ...widening,
        name: `${n.name}/widened`,
        input: input.map((_, i) => found(i)),
        output: n.output ?? [],
        attribute: last,
      },
    ];
  });
  for (const name of swapped.flatMap((n) => n.input ?? [])) widened.delete(name);
  return swapped.filter((n) => !widened.has(n.output?.[0] ?? ""));
}

/** Weights lie row by row, so some rows of a product by a large matrix are a product by a shorter one. */
function rowsOf(part: Part, product: onnx.INodeProto, from: number, rows: number): Part {
  const cut = new Set(storedFor(part, product));
  // The shape that a flattened product is given back holds the number of its columns.
  const reshaped = (n: onnx.INodeProto) => n.opType === "Reshape" && n.input?.[0] === product.output?.[0];
  const shorter = (product.attribute ?? []).map((a) => (a.name === "N" ? { ...a, i: rows } : a));
  return {
    ...part,
    initializer: part.initializer.map((t) => (cut.has(t) ? someRows(t, from, rows) : t)),
    node: part.node.map((n) =>
      reshaped(n)
        ? { ...n, opType: "Identity", input: [n.input?.[0] ?? ""], attribute: [] }
        : n === product
          ? { ...n, attribute: shorter }
          : n,
    ),
  };
}

function someRows(t: onnx.ITensorProto, from: number, rows: number): onnx.ITensorProto {
  const [all = 1, ...rest] = (t.dims ?? []).map(Number);
  const place = new Map(t.externalData?.map((e) => [e.key, e.value]));
  const row = Number(place.get("length")) / all;
  place.set("offset", String(Number(place.get("offset") ?? 0) + from * row));
  place.set("length", String(rows * row));
  const externalData = [...place].map(([key, value]) => ({ key: key ?? "", value: value ?? "" }));
  return { ...t, dims: [rows, ...rest], ...(t.externalData?.length && { externalData }) };
}

/** Columns of a product that came in slices of whole columns. */
function besideEachOther(slices: readonly Float32Array[], columns: number): Float32Array {
  const length = slices.reduce((sum, s) => sum + s.length, 0);
  const out = new Float32Array(length);
  const tokens = length / columns;
  let at = 0;
  for (const slice of slices) {
    const width = slice.length / tokens;
    for (let t = 0; t < tokens; t++) out.set(slice.subarray(t * width, (t + 1) * width), t * columns + at);
    at += width;
  }
  return out;
}
