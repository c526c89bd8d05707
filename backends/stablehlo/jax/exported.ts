import type { Mesh } from "../../../ir/graph.ts";
import type { DType, TensorType } from "../../../ir/type.ts";
import { devices } from "../../../passes/specialize/shard.ts";
import type { Interface } from "../text/module.ts";
import { type Field, type Fields, flatbuffer } from "./flatbuffer.ts";

/** A tree of arguments as JAX flattens it: tuples in order, tables by name. */
export type Tree =
  | "leaf"
  | { readonly tuple: readonly Tree[] }
  | { readonly dict: Readonly<Record<string, Tree>> };

/** A module for `jax.export.deserialize(blob).call`. */
export interface Exported extends Interface {
  readonly name: string;
  readonly text: string;
  readonly in: Tree;
  readonly out: Tree;
}

const treeKind = { leaf: 0, tuple: 2, dict: 4 } as const;
const dtypeCode = {
  bool: 0,
  i8: 1,
  i32: 3,
  u8: 5,
  f16: 9,
  f32: 10,
  bf16: 14,
  i4: 15,
} as const satisfies Record<DType, number>;
const deviceMemory = 1;
/** What the first serialized fields say for the sake of old readers; JAX writes the same. */
const statedVersion = 3;
/** How JAX calls the module: no effects, no platform index. */
const callingConvention = 10;

const byte = (number: number): Field => ({ number, width: 1 });

/**
 * The bytes that `jax.export` writes for such a module, in version 11 of its format (JAX 0.10). The payload is the
 * StableHLO text itself, which JAX parses as it does bytecode. Source: `jax/_src/export/serialization.py`.
 */
export function exportedBlob(e: Exported): Uint8Array {
  const avals = uniques([...e.args, ...e.results].map((a) => a.type));
  const indices = (of: readonly { readonly type: TensorType }[]): Field => ({
    numbers: of.map((a) => avals.indexOf(String(a.type))),
    width: 4,
  });
  const types = new Map([...e.args, ...e.results].map((a) => [String(a.type), a.type]));
  const aval = (key: string): Field => ({ table: avalFields(types.get(key) as TensorType) });
  // Numbered from 1; 0 stands for none.
  const kinds = [...new Set([...e.args, ...e.results].map(shardingKey))];
  const shardings = (of: readonly Placed[]): Field => ({
    numbers: of.map((a) => (e.mesh ? 1 + kinds.indexOf(shardingKey(a)) : 0)),
    width: 4,
  });
  const mesh = e.mesh && meshFields(e.mesh);
  const empty: Field = { list: [] };
  const fields: Fields = [
    { number: statedVersion, width: 2 },
    { string: e.name },
    { table: treeFields(e.in) },
    { list: e.args.map((a) => aval(String(a.type))) },
    { table: treeFields(e.out) },
    { list: e.results.map((r) => aval(String(r.type))) },
    undefined,
    empty,
    empty,
    { list: [{ string: "tpu" }] },
    empty,
    empty,
    // The text runs on other platforms just as well.
    { list: [{ table: [byte(0)] }] },
    { bytes: Buffer.from(e.text, "utf8") },
    { number: callingConvention, width: 2 },
    { numbers: e.args.map((_, i) => i), width: 2 },
    undefined,
    undefined,
    { number: devices(e.mesh ?? {}), width: 4 },
    { list: avals.map(aval) },
    mesh ? { list: [{ table: mesh }] } : empty,
    mesh ? { list: kinds.map((key) => ({ table: shardingFields(mesh, key) })) } : empty,
    indices(e.args),
    indices(e.results),
    shardings(e.args),
    shardings(e.results),
  ];
  return flatbuffer(fields);
}

type Placed = Pick<Interface["args"][number], "type" | "sharding">;
/** The axis of the mesh that cuts each axis; empty where none does. */
const shardingKey = ({ type, sharding }: Placed): string =>
  JSON.stringify(type.shape.map((_, i) => sharding?.[i] ?? null));

const automatic = 1;
const meshFields = (mesh: Mesh): Fields => [
  { numbers: Object.values(mesh), width: 4 },
  { list: Object.keys(mesh).map((axis) => ({ string: axis })) },
  { bytes: Uint8Array.from(Object.keys(mesh), () => automatic) },
];

function shardingFields(mesh: Fields, key: string): Fields {
  const axes: (string | null)[] = JSON.parse(key);
  const names = (axis: string | null): Field => ({ list: axis === null ? [] : [{ string: axis }] });
  const spec: Fields = [{ list: axes.map((axis) => ({ table: [names(axis)] })) }, { list: [] }, { list: [] }];
  return [{ table: mesh }, { table: spec }, undefined, undefined];
}

const uniques = (types: readonly TensorType[]): string[] => [...new Set(types.map(String))];

const avalFields = ({ shape, dtype }: TensorType): Fields => [
  byte(0),
  { list: shape.map((d) => ({ string: String(d) })) },
  byte(dtypeCode[dtype]),
  byte(deviceMemory),
];

function treeFields(tree: Tree): Fields {
  if (tree === "leaf") return [byte(treeKind.leaf)];
  if ("tuple" in tree) return [byte(treeKind.tuple), children(tree.tuple)];
  const entries = Object.entries(tree.dict).sort(([a], [b]) => (a < b ? -1 : 1));
  const names: Field = { list: entries.map(([name]) => ({ string: name })) };
  return [byte(treeKind.dict), children(entries.map(([, t]) => t)), names];
}

const children = (trees: readonly Tree[]): Field | undefined =>
  trees.length ? { list: trees.map((t) => ({ table: treeFields(t) })) } : undefined;

/** Arguments (weights, caches, the other inputs …) and results (what is no cache …, caches), as a program gives them. */
export function treesOf({ args, results }: Interface): { in: Tree; out: Tree } {
  const dict = (names: readonly string[]): Tree => ({
    dict: Object.fromEntries(names.map((n) => [n, "leaf"])),
  });
  const of = (group: string) => args.filter((a) => a.group === group).map((a) => a.name);
  const call: Tree[] = [dict(of("weights")), dict(of("caches")), ...of("inputs").map((): Tree => "leaf")];
  const fresh = results.filter((r) => r.over === undefined);
  const caches = results.flatMap((r) => r.over ?? []);
  return {
    // Positional arguments, and no named ones.
    in: { tuple: [{ tuple: call }, { dict: {} }] },
    out: { tuple: [...fresh.map((): Tree => "leaf"), dict(caches)] },
  };
}

/** All arguments and all results in a row. */
export function flatTrees({ args, results }: Interface): { in: Tree; out: Tree } {
  const row = (of: readonly unknown[]): Tree => ({ tuple: of.map((): Tree => "leaf") });
  return { in: { tuple: [row(args), { dict: {} }] }, out: row(results) };
}
