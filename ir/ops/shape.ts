import { minus, plus, product, size as sizeOf } from "../dim.ts";
import { bool, dims, dtype, int, ints, primitive, size } from "../op.ts";
import { count, type HostTensor, offsets, pick, strides } from "../tensor.ts";

export const cast = primitive("cast", {
  doc: "Convert the element type. To a narrower float: round to nearest even; to an integer: towards zero.",
  inputs: ["x"],
  attrs: { to: dtype() },
  example: [["f32[2,3]"], { to: "bf16" }],
  noop: ({ x }, { to }) => (x.dtype === to ? x : undefined),
  infer: ({ x }, { to }) => x.with({ dtype: to }),
  eval: ({ x }) => ({ shape: x.shape, data: x.data.slice() }),
});

export const reshape = primitive("reshape", {
  doc: "The same elements in row-major order under a new shape.",
  inputs: ["x"],
  attrs: { shape: dims() },
  example: [["f32[2,6]"], { shape: [3, 4] }],
  noop: ({ x }, { shape }) => (x.type.equals(x.type.with({ shape })) ? x : undefined),
  infer: ({ x }, { shape }) => {
    const [have, want] = [product(x.shape), product(shape)];
    if (have !== want) throw new TypeError(`${x} has ${have} elements but [${shape}] has ${want}`);
    return x.with({ shape });
  },
  eval: ({ x }, _, { shape }) => ({ shape, data: x.data.slice() }),
});

export const transpose = primitive("transpose", {
  doc: "Permute the axes: axis i of the result is axis perm[i] of x.",
  inputs: ["x"],
  attrs: { perm: ints() },
  example: [["f32[2,3,4]"], { perm: [1, 0, 2] }],
  noop: ({ x }, { perm }) =>
    perm.every((p, i) => p === i) && perm.length === x.shape.length ? x : undefined,
  infer: ({ x }, { perm }) => {
    if (perm.length !== x.rank || new Set(perm).size !== x.rank || perm.some((p) => p < 0 || p >= x.rank))
      throw new TypeError(`perm [${perm}] must name each axis of ${x} once`);
    return x.with({ shape: perm.map((p) => x.at(p)) });
  },
  eval: ({ x }, { perm }, { shape }) => {
    const own = strides(x.shape);
    return pick(
      x,
      offsets(
        shape,
        perm.map((p) => own[p] as number),
      ),
      shape,
    );
  },
});

export const slice = primitive("slice", {
  doc: "Elements from (inclusive) to (exclusive) of one axis.",
  inputs: ["x"],
  attrs: { axis: int(), from: size(0), to: size() },
  example: [["f32[2,6]"], { axis: -1, from: 1, to: 4 }],
  noop: ({ x }, { axis, from, to }) => (from === 0 && to === x.type.at(axis) ? x : undefined),
  infer: ({ x }, { axis, from, to }) => {
    const [n, all] = [minus(to, from), x.at(axis)];
    if (typeof n === "number" && n < 0) throw new TypeError(`from ${from} lies after to ${to}`);
    if (typeof from === "number" && from < 0) throw new TypeError(`from ${from} is negative`);
    if (typeof to === "number" && typeof all === "number" && to > all)
      throw new TypeError(`to ${to} is past the axis of size ${all}`);
    return x.resized(axis, n);
  },
  eval: ({ x }, { axis, from, to }, { shape, sizes }) => {
    const own = strides(x.shape);
    const [start, end, all] = [sizeOf(from, sizes), sizeOf(to, sizes), x.shape.at(axis) as number];
    if (start < 0 || end < start || end > all)
      throw new RangeError(`from ${start} to ${end} does not lie within an axis of size ${all}`);
    return pick(x, offsets(shape, own, start * (own.at(axis) as number)), shape);
  },
});

export const concat = primitive("concat", {
  doc: "Join two tensors along one axis.",
  inputs: ["a", "b"],
  attrs: { axis: int(-1) },
  example: [["f32[2,3]", "f32[2,1]"]],
  infer: ({ a, b }, { axis }) => {
    const joined = a.resized(axis, plus(a.at(axis), b.at(axis)));
    if (b.rank !== a.rank || !b.resized(axis, joined.at(axis)).equals(joined))
      throw new TypeError(`${a} and ${b} differ besides axis ${axis}`);
    return joined;
  },
  eval: ({ a, b }, { axis }, { shape }) => {
    const k = axis < 0 ? axis + shape.length : axis;
    const data = new Float64Array(count(shape));
    const inner = count(shape.slice(k + 1));
    const [na, nb] = [(a.shape[k] as number) * inner, (b.shape[k] as number) * inner];
    for (let i = 0; i < count(shape.slice(0, k)); i++) {
      data.set(a.data.subarray(i * na, (i + 1) * na), i * (na + nb));
      data.set(b.data.subarray(i * nb, (i + 1) * nb), i * (na + nb) + na);
    }
    return { shape, data };
  },
});

export const gather = primitive("gather", {
  doc: "Rows of a table: result[i…] = table[index[i…]].",
  inputs: ["table", "index"],
  example: [["f32[5,3]", "i32[2]"]],
  infer: ({ table, index }) => {
    if (index.dtype !== "i32") throw new TypeError(`the index is ${index}; it must be i32`);
    if (table.rank === 0) throw new TypeError(`the table is ${table}; it needs rows`);
    return table.with({ shape: [...index.shape, ...table.shape.slice(1)] });
  },
  eval: ({ table, index }, _, { shape }) => {
    const n = count(table.shape.slice(1));
    const data = new Float64Array(count(shape));
    index.data.forEach((row, i) => {
      if (row < 0 || row >= (table.shape[0] as number))
        throw new RangeError(`index ${row} is outside the table of ${table.shape[0]} rows`);
      data.set(table.data.subarray(row * n, (row + 1) * n), i * n);
    });
    return { shape, data };
  },
});

export const update = primitive("update", {
  doc:
    "dest with src written over it from position `start` of one axis. What would fall past the end is an error or, " +
    "with wrap, goes on at the beginning, the last written winning.",
  inputs: ["dest", "src", "start"],
  attrs: { axis: int(), wrap: bool(false) },
  example: [["f32[2,6]", "f32[2,2]", "i32[]"], { axis: 1 }],
  infer: ({ dest, src, start }, { axis }) => {
    if (!src.resized(axis, dest.at(axis)).equals(dest))
      throw new TypeError(`${src} does not fit into ${dest} along axis ${axis}`);
    if (start.dtype !== "i32" || start.rank !== 0) throw new TypeError(`start is ${start}; it must be i32[]`);
    return dest;
  },
  eval: ({ dest, src, start }, { axis, wrap }, { shape }) => {
    const from = start.data[0] as number;
    const k = axis < 0 ? axis + shape.length : axis;
    const [n, all] = [src.shape[k] as number, shape[k] as number];
    if (from < 0 || (!wrap && from + n > all))
      throw new RangeError(`writing ${n} at ${from} does not fit into ${all}`);
    const data: HostTensor["data"] = dest.data.slice();
    const inner = count(shape.slice(k + 1));
    for (let outer = 0; outer < count(shape.slice(0, k)); outer++)
      for (let i = 0; i < n; i++) {
        const row = src.data.subarray((outer * n + i) * inner, (outer * n + i + 1) * inner);
        data.set(row, (outer * all + ((from + i) % all)) * inner);
      }
    return { shape, data };
  },
});
