import { type Expr, fourWords, type Kernel, kernel, literal, range, select } from "../../lang/index.ts";
import { pairs } from "../format.ts";

/** Pieces of eight bf16 in a row of x as tensor cores read it: whole tiles, whatever the number of their columns. */
export const bf16Pieces = (columns: number): number => Math.ceil(columns / 64) * 8;

/**
 * Two numbers as the bf16 that tensor cores multiply, a word for each part: rounded to nearest, ties to even, and what that
 * leaves, so that the sum of both has 16 bits of them.
 */
export function bf16Parts(a: Expr<"f32">, b: Expr<"f32">, parts: 1 | 2): readonly Expr<"u32">[] {
  const near = pairs.bf16.pack(a, b);
  if (parts === 1) return [near];
  const [nearA, nearB] = pairs.bf16.unpack(near) as [Expr<"f32">, Expr<"f32">];
  return [near, pairs.bf16.pack(a.sub(nearA), b.sub(nearB))];
}

/**
 * x [tokens, columns] as tensor cores multiply it, rows filled up with zeros: all tokens' first parts, then all second ones. A
 * thread writes one piece.
 */
export function toBf16(columns: number, parts: 1 | 2, threads: number): Kernel {
  const doc = `x in bf16, rounded to nearest${parts > 1 ? ", and what that leaves, in bf16 too" : ""}; ${columns} columns`;
  return kernel(`bf16_${parts > 1 ? "pair_" : ""}of_${columns}`, { doc, threads }, (k) => {
    const x = k.input("x", "f32x4");
    const y = k.output("y", "u32x4");
    const tokens = k.uniform("tokens");
    const pieces = bf16Pieces(columns);
    const i = k.let("i", k.group.x.mul(threads).add(k.thread));
    const count = k.let("count", tokens.mul(pieces));
    k.if(i.lt(count), () => {
      const [token, piece] = [i.div(pieces), k.let("piece", i.mod(pieces))];
      const numbers = range(2).flatMap((n) => {
        const at = piece.mul(2).add(n);
        const whole = columns % 64 === 0;
        const read = x.at(token.mul(columns / 4).add(whole ? at : at.min(columns / 4 - 1)));
        const four = whole ? read : select(at.lt(columns / 4), read, literal("f32x4", 0));
        return k.let(`four${n}`, four).lanes() as Expr<"f32">[];
      });
      const all = range(4).map((n) =>
        bf16Parts(numbers[2 * n] as Expr<"f32">, numbers[2 * n + 1] as Expr<"f32">, parts),
      );
      for (const p of range(parts))
        y.set(i.add(count.mul(p)), fourWords(...all.map((w) => w[p] as Expr<"u32">)));
    });
  });
}
