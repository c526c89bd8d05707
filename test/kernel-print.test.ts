import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { f32, kernel, u32 } from "../backends/kernel/lang/index.ts";
import { gemv } from "../backends/kernel/library/products/gemv.ts";
import { c, cuda, wgsl } from "../backends/kernel/print/index.ts";

const golden = (name: string) => join(import.meta.dirname, "golden/kernels", name);

/** A product that uses most of the language: norm, codes with scales, a tail to guard, a residual. */
const shape = {
  rows: 37,
  columns: 64,
  format: { dtype: "i8", block: 32, zero: false },
  norm: { eps: 1e-6 },
  epilogue: { residual: true },
} as const;
const cut = { threads: 64, lanes: 4, prefetch: true };

describe("one kernel in three languages", () => {
  const k = gemv(shape, cut);
  test("WGSL", () => expect(wgsl(k)).toMatchFileSnapshot(golden("gemv.wgsl")));
  test("CUDA", () => expect(cuda(k)).toMatchFileSnapshot(golden("gemv.cu")));
  test("C", () => expect(c(k)).toMatchFileSnapshot(golden("gemv.c")));
  test("WGSL with subgroups, where a sum is of the whole workgroup", () => {
    const long = { ...shape, columns: 1024 };
    const text = (lanes: number) => wgsl(gemv(long, { ...cut, lanes }), { subgroups: true });
    expect(text(64)).toContain("enable subgroups;");
    expect(text(4)).not.toContain("subgroup");
  });
});

describe("what a kernel must not do is found when it is written", () => {
  const written = (write: Parameters<typeof kernel>[2]) => () =>
    kernel("wrong", { doc: "wrong", threads: 8 }, write);
  test("threads meet where not all come by", () => {
    expect(written((k) => k.if(k.thread.lt(3), () => k.barrier()))).toThrow(
      /branch that not all of them take/,
    );
    expect(written((k) => k.for("i", { from: k.thread, to: 8 }, () => k.barrier()))).toThrow(
      /different counts/,
    );
  });
  test("an input is read before earlier kernels are done", () => {
    const early = written((k) => {
      const [x, y] = [k.input("x", "f32"), k.output("y", "f32")];
      const value = k.let("value", x.at(0));
      k.await();
      y.set(0, value);
    });
    expect(early).toThrow(/x is read before await/);
  });
  test("types that do not fit", () => {
    // @ts-expect-error a float is no whole number
    expect(() => u32(1).add(f32(1))).toThrow("cannot + u32 and f32");
  });
  test("a variable that another block declared", () => {
    const astray = written((k) => {
      const y = k.output("y", "f32");
      let inner = f32(0);
      k.if(k.thread.lt(3), () => {
        inner = k.var("inner", f32(1));
      });
      y.set(0, inner);
    });
    expect(astray).toThrow(/inner is read where it is not declared/);
  });
});
