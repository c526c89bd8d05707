import { UserError } from "../ir/error.ts";
import type { Graph } from "../ir/graph.ts";
import { verify } from "../ir/verify.ts";
import { groups, passes } from "./index.ts";
import type { AnyPassMaker, Pass } from "./pass.ts";

export interface PassRecord {
  readonly name: string;
  readonly seconds: number;
  /** Nodes of the graph after the pass. */
  readonly nodes: number;
}

/** A pass failed, or left a graph that does not verify. Holds the last good graph. */
export class PassError extends Error {
  readonly pass: string;
  readonly before: Graph;
  constructor(pass: Pass, before: Graph, cause: unknown) {
    super(`pass ${pass.name}: ${cause instanceof Error ? cause.message : cause}`, { cause });
    this.name = "PassError";
    this.pass = pass.name;
    this.before = before;
  }
}

/** Told before each pass, and after it with what it made. */
export type Observer = (pass: Pass, after: Graph, before: Graph) => void;

/** Run passes in order, verifying and timing each. Throws PassError naming the pass that broke the graph. */
export function runPasses(
  g: Graph,
  pipeline: readonly Pass[],
  observe: Observer = () => {},
): { graph: Graph; records: PassRecord[] } {
  const records: PassRecord[] = [];
  let graph = g;
  for (const pass of pipeline) {
    const start = performance.now();
    const before = graph;
    try {
      graph = pass.run(graph);
      verify(graph);
    } catch (e) {
      throw new PassError(pass, before, e);
    }
    const seconds = (performance.now() - start) / 1000;
    records.push({ name: pass.name, seconds, nodes: graph.values().length });
    observe(pass, graph, before);
  }
  return { graph, records };
}

/** Finds the maker of a pass that gemmac does not bring itself. */
export type Resolve = (name: string) => AnyPassMaker | undefined;

/**
 * Reads a pipeline such as `fuse,insert-kv-cache{capacity=4096},fold-weights`. Throws UserError naming what is
 * unknown and what there is.
 */
export function parsePipeline(text: string, resolve: Resolve = () => undefined): Pass[] {
  const item = /\s*([^,{}\s]+)\s*(?:\{([^{}]*)\})?\s*(,|$)/y;
  const out: Pass[] = [];
  while (item.lastIndex < text.length) {
    const at = item.lastIndex;
    const m = item.exec(text);
    if (!m)
      throw usage(
        `${text.slice(at)} is no list of passes`,
        "write it as fuse,insert-kv-cache{capacity=4096}",
      );
    const [, name = "", options] = m;
    const members = groups.get(name);
    if (members !== undefined) {
      if (options !== undefined)
        throw usage(`${name} stands for ${members} and takes no options`, "name the pass itself");
      out.push(...parsePipeline(members));
    } else out.push(makePass(name, options ?? "", resolve));
  }
  return out;
}

function makePass(name: string, options: string, resolve: Resolve): Pass {
  const maker = passes.get(name) ?? resolve(name);
  if (!maker) {
    const known = [...groups.keys(), ...passes.keys()].join(", ");
    throw usage(
      `there is no pass ${name}`,
      `choose from ${known}, or give the path of a file such as ./my-pass.ts`,
    );
  }
  const given: Record<string, unknown> = {};
  for (const part of options
    .split(",")
    .map((s) => s.trim())
    .filter(Boolean)) {
    const [key = "", value] = part.split("=");
    const schema = Object.hasOwn(maker.options, key) ? maker.options[key] : undefined;
    const takes = Object.entries(maker.options).map(([k, a]) => `${k} (${a.kind})`);
    if (!schema || value === undefined)
      throw usage(
        `${name} has no option ${part}`,
        takes.length ? `it takes ${takes.join(", ")}` : "it takes none",
      );
    try {
      given[key] = schema.parse(value);
    } catch {
      throw usage(`${name}: ${key} is ${value}`, `give ${schema.kind}`);
    }
  }
  try {
    return maker(given);
  } catch (e) {
    throw usage(e instanceof Error ? e.message : String(e), `see gemmac passes ${name}`);
  }
}

const usage = (what: string, next: string) => new UserError("usage", what, next);

/** The text that `parsePipeline` reads back: names, and the options that are not the default. */
export function printPipeline(pipeline: readonly Pass[]): string {
  return pipeline
    .map(({ name, options }) => {
      const schema = passes.get(name)?.options ?? {};
      const given = Object.entries(options).filter(([k, v]) => v !== schema[k]?.default);
      return given.length ? `${name}{${given.map(([k, v]) => `${k}=${v}`).join(",")}}` : name;
    })
    .join(",");
}
