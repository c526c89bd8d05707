import { type Expr, type Kernel, kernel, literal, range, select, words } from "../../lang/index.ts";
import { pairs } from "../format.ts";

/** Pieces of eight bf16 in a row of x as tensor cores read it: whole tiles, whatever the number of their columns. */
export const bf16Pieces = (columns: number): number => Math.ceil(columns / 64) * 8;

/**
 * x [tokens, columns] as tensor cores multiply it: rounded to bf16, ties to even, rows filled up with zeros; with two parts
 * all tokens once more, of what the first rounding left, so that their sum has 16 bits of x. One thread writes one piece.
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
      const two = (all: readonly Expr<"f32">[], n: number) =>
        all.slice(2 * n, 2 * n + 2) as [Expr<"f32">, Expr<"f32">];
      const near = range(4).map((n) => k.let(`near${n}`, pairs.bf16.pack(...two(numbers, n))));
      y.set(i, words(...near));
      if (parts === 1) return;
      const rest = near.map((word, n) => {
        const [a, b] = two(numbers, n);
        const [nearA, nearB] = pairs.bf16.unpack(word) as [Expr<"f32">, Expr<"f32">];
        return pairs.bf16.pack(a.sub(nearA), b.sub(nearB));
      });
      y.set(i.add(count), words(...rest));
    });
  });
}
