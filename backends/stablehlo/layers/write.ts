import type { Value } from "../../../ir/graph.ts";
import { update } from "../../../ir/ops/index.ts";
import { overwrite } from "../pieces.ts";
import { type Body, type Ssa, signature } from "../text/body.ts";
import { sizes, tensorType, typed } from "../text/dialect.ts";
import type { CacheStack, Loop, Stack } from "./find.ts";

/**
 * Writes `loop` as a `stablehlo.while`, whose turns take the slices of their number from tensors that hold all layers'.
 * `declared` are those tensors, by name. Gives what the caches are after the last turn, by the names of `next`.
 */
export function writeLoop(
  b: Body,
  loop: Loop,
  declared: ReadonlyMap<string, Ssa>,
  translate: (body: Body, values: readonly Value[]) => void,
): Map<string, Ssa> {
  const { times, carried, caches } = loop;
  const number = (n: number) => b.splat(n, typed("i32", []));
  const [zero, one, end] = [number(0), number(1), number(times)] as const;
  const starts = [
    zero,
    ...carried.map((c) => b.of(c.before)),
    ...caches.map((c) => declared.get(c.name) as Ssa),
  ];
  const inner = b.within(new Map([...loop.origins].map(([v, { all }]) => [v, all])));
  const names = ["layer", ...carried.map((_, i) => `before${i || ""}`), ...caches.map((c) => c.name)];
  const taken = starts.map((x, i) => inner.called(names[i] as string, x.type));
  const [layer, ...rest] = taken as [Ssa, ...Ssa[]];
  for (const [i, c] of carried.entries()) inner.define(c.read, rest[i] as Ssa);

  /** The part of this turn. */
  const slice = (all: Ssa, v?: Value): Ssa => {
    const [, ...shape] = sizes(all.type);
    const from = [layer, ...shape.map(() => zero)];
    const text = `, sizes = [${[1, ...shape].join(", ")}]`;
    const piece = inner.op("dynamic_slice", [all, ...from], typed(all.type.dtype, [1, ...shape]), text);
    return inner.reshape(piece, shape, v);
  };
  for (const s of loop.weights) inner.define(s.members[1] as Value, slice(declared.get(s.name) as Ssa));

  // Where only new rows are written, they go to the whole at once, and no cache is taken out and put back.
  const whole = new Map<CacheStack, Ssa>();
  const own = (s: Stack): Ssa => taken[1 + carried.length + caches.indexOf(s as CacheStack)] as Ssa;
  const byMade = new Map(caches.map((c) => [c.made, c]));
  for (const c of caches)
    if (!inPlace(c) || readsBefore(loop, c)) inner.define(c.members[1] as Value, slice(own(c)));
  for (const v of loop.body) {
    const cache = byMade.get(v);
    const rows = cache && inPlace(cache);
    if (!cache || !rows) {
      translate(inner, [v]);
      continue;
    }
    const src = inner.of(rows.src);
    const lifted = inner.reshape(src, [1, ...sizes(src.type)]);
    const starts = [layer, ...v.shape.map((_, i) => (i === rows.axis ? inner.of(rows.start) : zero))];
    const made = inner.op("dynamic_update_slice", [own(cache), lifted, ...starts], own(cache).type);
    whole.set(cache, made);
    if (loop.body.some((u) => u.inputs.includes(v))) inner.define(v, slice(made, v));
  }
  const ends = [
    inner.same("add", [layer, one]),
    ...carried.map((c) => inner.of(c.made)),
    ...caches.map((c) => {
      const known = whole.get(c);
      if (known) return known;
      const made = inner.of(c.made);
      const all = own(c);
      return overwrite(inner, all, inner.reshape(made, [1, ...sizes(made.type)]), layer, 0);
    }),
  ];

  const types = starts.map((x) => tensorType(x.type)).join(", ");
  const heads = taken.map((x, i) => `${x.name} = ${starts[i]?.name}`).join(", ");
  const all = b.called("layers", zero.type).name;
  const more = b.called("more", typed("bool", []));
  b.lines.push(
    `${all}:${starts.length} = stablehlo.while(${heads}) : ${types}`,
    "cond {",
    `  ${more.name} = stablehlo.compare LT, ${layer.name}, ${end.name}, SIGNED : ${signature([layer, end], more.type)}`,
    `  stablehlo.return ${more.name} : tensor<i1>`,
    "} do {",
    ...inner.lines.map((line) => `  ${line}`),
    `  stablehlo.return ${ends.map((x) => x.name).join(", ")} : ${types}`,
    "}",
  );
  const result = (i: number): Ssa => ({ name: `${all}#${i}`, type: (starts[i] as Ssa).type });
  for (const [i, c] of carried.entries()) b.define(c.after, result(1 + i));
  return new Map(caches.map((c, i) => [c.next, result(1 + carried.length + i)]));
}

/** The rows that a step writes to a cache, when that is all that happens to it. */
function inPlace({ made, members }: CacheStack): { src: Value; start: Value; axis: number } | undefined {
  const found = update.of(made);
  if (!found || found.dest !== members[1]) return undefined;
  const axis = made.type.axis(found.attrs.axis);
  // A ring's rows may fall apart in two, and where they begin is yet to be computed.
  return found.attrs.wrap ? undefined : { src: found.src, start: found.start, axis };
}

const readsBefore = (loop: Loop, c: CacheStack): boolean =>
  loop.body.some((v) => v !== c.made && v.inputs.includes(c.members[1] as Value));
