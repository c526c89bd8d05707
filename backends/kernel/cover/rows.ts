import type { Value } from "../../../ir/graph.ts";
import { add, cast, constant, gather, mul, quant_gather, rms_norm } from "../../../ir/ops/index.ts";
import { embed as embedKernel } from "../library/embed.ts";
import { type Format, isStored } from "../library/format.ts";
import { rmsNorm, rmsNormBf16 } from "../library/norm.ts";
import { storedCodes } from "./factors.ts";
import { plainVector } from "./input.ts";
import { leave } from "./many-tokens.ts";
import { chunkOf, inGroups, nth } from "./product.ts";
import { type Bound, type Launch, type Match, rowsOf, type Scene, type Tile, value, whole } from "./tile.ts";

/** rms_norm, with the residual connection after it if there is one. */
export const norm: Tile = {
  name: "norm",
  match(v, scene) {
    const sum = add.of(v);
    const after = (x: Value | undefined) => (x && scene.uses(x) === 1 ? rms_norm.of(x) : undefined);
    const second = after(sum?.b);
    const first = second ?? after(sum?.a);
    const found = rms_norm.of(v) ?? first;
    if (found?.x.dtype !== "f32" || !plainVector(found.scale, scene)) return undefined;
    const residual = sum && (second ? sum.a : sum.b);
    if (residual && !residual.type.equals(v.type)) return undefined;
    const columns = found.x.fixed(-1);
    const again = rms_norm(found.x, found.scale, found.attrs);
    const rows = rowsOf(found.x);
    return {
      makes: [v],
      rebuilt: [residual ? add(residual, again) : again],
      needs: [found.x, ...(residual ? [residual] : [])],
      launches: () => {
        const threads = Math.min(scene.device.threads, 2 ** Math.ceil(Math.log2(columns)));
        const spec = { columns, eps: found.attrs.eps, residual: residual !== undefined };
        const { bound, leaves } = residual ? { bound: value(v) } : leave(v, scene);
        const bind: Record<string, Bound> = {
          x: value(found.x),
          scale: whole(scene.pack([found.scale], "numbers")),
          y: bound,
        };
        if (residual) bind.residual = value(residual);
        const kernel = leaves ? rmsNormBf16(spec, leaves, threads) : rmsNorm(spec, threads);
        return [{ kernel, bind, uniforms: { tokens: rows }, grid: [{ of: rows, per: 1 }] }];
      },
    };
  },
};

interface Lookup {
  readonly format: Format;
  readonly weights: readonly Value[];
  readonly index: Value;
  readonly columns: number;
}

/** Rows of a stored table. */
function lookup(v: Value, scene: Scene): Lookup | undefined {
  const plain = gather.of(v);
  if (plain) {
    const stored = scene.stored(plain.table);
    if (stored?.type.rank !== 2 || !isStored(stored.dtype)) return undefined;
    if (stored.dtype === "i8" || stored.dtype === "i4") return undefined;
    const format = { dtype: stored.dtype, block: 0, zero: false };
    return { format, weights: [stored], index: plain.index, columns: stored.fixed(1) };
  }
  const coded = quant_gather.of(v);
  const stored = coded && storedCodes(coded.codes, coded.scale, coded.zero, scene);
  return stored && { ...stored, index: coded.index, columns: coded.codes.fixed(1) };
}

/** Rows of a table, widened, times a number. */
export const embed: Tile = {
  name: "embed",
  match(v, scene) {
    if (v.dtype !== "f32") return undefined;
    const scaled = mul.of(v);
    const number = [scaled?.b, scaled?.a].find((x) => x?.op === constant);
    const inner = scaled && number ? (number === scaled.b ? scaled.a : scaled.b) : v;
    const widened = cast.of(inner);
    const rows = lookup(widened?.x ?? inner, scene);
    const ids = rows && scene.stepAt(rows.index);
    if (!rows || ids === undefined || rows.columns % 4 !== 0) return undefined;
    const looked = widened?.x ?? inner;
    const wide = widened ? cast(looked, widened.attrs) : looked;
    const again = scaled && number ? mul(wide, number) : wide;
    return {
      makes: [v],
      rebuilt: [again],
      needs: [],
      launches: () => launches(v, rows, ids, scaled ? Number(number?.attrs.value) : 1, scene),
    } satisfies Match;
  },
};

function launches(v: Value, rows: Lookup, ids: number, scale: number, scene: Scene): Launch[] {
  const names = ["weight", "scales", "zeros"];
  const [table, ...others] = rows.weights;
  const matrix = scene.pack(table ? [table] : [], "matrix");
  const weights = [matrix, ...others.map((w) => scene.pack([w], "numbers", matrix))];
  const { threads, buffers } = scene.device;
  const all = [...matrix.chunks.keys()];
  // As many pieces to a launch as it can bind beside the step and the result.
  const most = Math.max(1, Math.floor((buffers - 2) / weights.length));
  return inGroups(all, most).map((chunks) => {
    const pieces = all.length > 1 ? chunks.length : 0;
    const spec = { columns: rows.columns, format: rows.format, scale, pieces };
    const bind: Record<string, Bound> = { step: { kind: "step" }, y: value(v) };
    const uniforms: Record<string, number> = { ids_at: ids };
    for (const [i, chunk] of chunks.entries()) {
      weights.forEach((w, n) => {
        bind[nth(names[n] as string, i)] = chunkOf(w, matrix, chunk);
      });
      uniforms[nth("first_row", i)] = matrix.chunks[chunk]?.firstRow ?? 0;
      uniforms[nth("rows", i)] = matrix.chunks[chunk]?.rows ?? 0;
    }
    return { kernel: embedKernel(spec, threads), bind, uniforms, grid: [{ of: rowsOf(v), per: 1 }] };
  });
}
