import type { Value } from "../../../ir/graph.ts";
import { add, param, rms_norm } from "../../../ir/ops/index.ts";
import type { InputNorm } from "../library/norm.ts";
import { type Bound, type Match, type Scene, value, whole } from "./tile.ts";

/** The scale of a norm, where kernels can read it. */
export const plainVector = (v: Value, scene: Pick<Scene, "stored">): boolean =>
  v.op === param && v.dtype === "f32" && v.type.rank === 1 && scene.stored(v) === v;

/** `rms_norm` as kernels can compute it. */
export function plainNorm(v: Value | undefined, scene: Pick<Scene, "stored">) {
  const norm = v && rms_norm.of(v);
  return norm && plainVector(norm.scale, scene) && norm.x.dtype === "f32" ? norm : undefined;
}

/** What a product of one vector computes of that vector on its way. */
export interface Input {
  /** What the kernel is to do; nothing where the vector stands in memory as it is multiplied. */
  readonly norm: InputNorm | undefined;
  /** The vector that the kernel reads, or the residual stream that it adds to. */
  readonly x: Value;
  /** What must stand in memory besides `x`, and what will. */
  readonly needs: readonly Value[];
  readonly makes: readonly Value[];
  /** `makes`, built anew. */
  readonly rebuilt: readonly Value[];
  /** What is multiplied, built anew from another value in the place of `x`. */
  over(x: Value): Value;
  bind(): Record<string, Bound>;
}

/** `x` as it stands in memory. */
export const asIs = (x: Value): Input => ({
  norm: undefined,
  x,
  needs: [],
  makes: [],
  rebuilt: [],
  over: (v) => v,
  bind: () => ({}),
});

/** Ways to come by `x`, which `readers` products multiply: first those that compute the most. */
export function inputs(x: Value, readers: number, scene: Scene): readonly Input[] {
  const norm = plainNorm(x, scene);
  if (!norm) return [asIs(x)];
  const { eps } = norm.attrs;
  const bindNorm = () => ({ norm: whole(scene.pack([norm.scale], "numbers")) });
  const over = (v: Value) => rms_norm(v, norm.scale, norm.attrs);
  const normed: Input = { ...asIs(norm.x), norm: { eps }, over, bind: bindNorm };
  // The sum is left by whoever multiplies it first, so nobody else may.
  const sum = scene.uses(x) === readers ? add.of(norm.x) : undefined;
  if (!sum?.a.type.equals(sum.b.type)) return [normed];
  for (const [stream, added] of [
    [sum.a, sum.b],
    [sum.b, sum.a],
  ] as const) {
    const branch = scene.uses(added) === 1 ? plainNorm(added, scene) : undefined;
    if (!branch) continue;
    const unit = rms_norm(branch.x, branch.scale, branch.attrs);
    const again = stream === sum.a ? add(stream, unit) : add(unit, stream);
    const joined: Input = {
      norm: { eps, branch: { eps: branch.attrs.eps } },
      x: stream,
      needs: [branch.x],
      makes: [norm.x],
      rebuilt: [again],
      over: () => over(again),
      bind: () => ({
        ...bindNorm(),
        branch: value(branch.x),
        branch_norm: whole(scene.pack([branch.scale], "numbers")),
        sum: value(norm.x),
      }),
    };
    return [joined, normed];
  }
  return [normed];
}

/**
 * A tile's matches by each value that they make: with more than one, whichever is asked for first must find the match.
 * `find` is tried on every value of the graph, once.
 */
export class Shared {
  readonly #known = new WeakMap<Scene, ReadonlyMap<Value, Match>>();
  readonly #find: (v: Value, scene: Scene) => Match | undefined;

  constructor(find: (v: Value, scene: Scene) => Match | undefined) {
    this.#find = find;
  }

  match(v: Value, scene: Scene): Match | undefined {
    let known = this.#known.get(scene);
    if (!known) {
      const found = new Map<Value, Match>();
      for (const root of scene.graph.values()) {
        const m = this.#find(root, scene);
        for (const made of m?.makes ?? []) if (!found.has(made)) found.set(made, m as Match);
      }
      known = found;
      this.#known.set(scene, known);
    }
    return known.get(v);
  }
}
