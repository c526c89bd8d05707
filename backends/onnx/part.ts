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
   * given and wanted too is computed from the rest. A large head gives its first rows only. Products round only where
   * they are wanted `asRun`.
   */
  async run(
    given: readonly Named[],
    feeds: Readonly<Record<string, Tensor>>,
    wanted: readonly string[],
    { asRun = false } = {},
  ): Promise<Map<string, Float32Array>> {
    const { Tensor } = await loadRuntime();
    const starts = new Set(given.map((t) => t.name));
    // What is given goes by another name, as a node may yield it next to what is wanted.
    const nodes = this.#between(starts, wanted).map((n) => ({
      ...(asRun ? n : inFloats(n)),
      input: n.input?.map((i) => (starts.has(i) ? alias(i) : i)) ?? [],
    }));
    const read = new Set(nodes.flatMap((n) => n.input ?? []));
    const tensors = (this.#graph.initializer ?? []).filter((t) => read.has(t.name ?? ""));
    const { node, initializer } = cutHead(
      lookedUpFirst(nodes),
      tensors,
      wanted.includes("logits") ? this.#head() : undefined,
    );
    const input = [
      ...(this.#graph.input ?? []).filter((i) => read.has(i.name ?? "")),
      ...given.filter((t) => read.has(alias(t.name))).map(({ name, dims }) => inputOf(alias(name), dims)),
    ];
    const part = {
      ...this.#model,
      graph: { ...this.#graph, node, initializer, input, output: wanted.map(untyped) },
    };
    const session = await createSession(encodeProto(part), dirname(this.#path));
    try {
      const used = given.filter((t) => read.has(alias(t.name)));
      const own = used.map((t) => [alias(t.name), new Tensor("float32", t.data, t.dims)] as const);
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

/** What `name` is widened from, if it is. */
const widenedFrom = (nodes: readonly onnx.INodeProto[], name: string): string =>
  nodes.find((n) => n.opType === "Cast" && n.output?.[0] === name)?.input?.[0] ?? name;

/** Rows of a table are widened after they are looked up: the whole of it, as floats, may be the largest matrix there is. */
function lookedUpFirst(nodes: readonly onnx.INodeProto[]): onnx.INodeProto[] {
  const widened = new Set<string>();
  const swapped = nodes.flatMap((n) => {
    const [table = "", ...rest] = n.input ?? [];
    const cast = nodes.find((c) => c.opType === "Cast" && c.output?.[0] === table);
    if (n.opType !== "Gather" || !cast) return [n];
    widened.add(table);
    const rows = `${n.output?.[0]}/stored`;
    return [
      { ...n, input: [...(cast.input ?? []), ...rest], output: [rows] },
      { ...cast, name: `${n.name}/widened`, input: [rows], output: n.output ?? [] },
    ];
  });
  for (const name of swapped.flatMap((n) => n.input ?? [])) widened.delete(name);
  return swapped.filter((n) => !widened.has(n.output?.[0] ?? ""));
}

/** Weights lie row by row, so the first rows of a product by a large matrix are a product by a shorter one. */
function cutHead(
  nodes: readonly onnx.INodeProto[],
  tensors: readonly onnx.ITensorProto[],
  head: string | undefined,
): { node: onnx.INodeProto[]; initializer: onnx.ITensorProto[] } {
  const rows = new Map(tensors.map((t) => [t.name, Number(t.dims?.[0] ?? 0)]));
  const stored = (name = "") => widenedFrom(nodes, name);
  const heads = nodes.filter(
    (n) => n.output?.[0] === head && isProduct(n) && (rows.get(stored(n.input?.[1])) ?? 0) > headRows,
  );
  const cut = new Set(heads.flatMap((n) => n.input?.slice(1).map(stored) ?? []));
  // The shape that a flattened product is given back holds the number of its columns.
  const reshaped = new Set(
    heads.flatMap((n) => nodes.filter((m) => m.opType === "Reshape" && m.input?.[0] === n.output?.[0])),
  );
  const initializer = tensors.map((t) => (cut.has(t.name ?? "") ? shortened(t) : t));
  const node = nodes.flatMap((n) => {
    if (reshaped.has(n)) return [{ ...n, opType: "Identity", input: [n.input?.[0] ?? ""], attribute: [] }];
    if (!heads.includes(n)) return [n];
    return [
      { ...n, attribute: (n.attribute ?? []).map((a) => (a.name === "N" ? { ...a, i: headRows } : a)) },
    ];
  });
  return { node, initializer };
}

function shortened(t: onnx.ITensorProto): onnx.ITensorProto {
  const [all = 1, ...rest] = (t.dims ?? []).map(Number);
  const externalData = t.externalData?.map((e) =>
    e.key === "length" ? { key: "length", value: String((Number(e.value) / all) * headRows) } : e,
  );
  return { ...t, dims: [headRows, ...rest], ...(externalData && { externalData }) };
}
