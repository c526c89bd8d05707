import { describe, expect, expectTypeOf, test } from "vitest";
import type { CompositeName, Emit, Emitters, PrimitiveName } from "../backends/backend.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { type AttrsOf, composite, float, int, oneOf, primitive } from "../ir/op.ts";
import { add, attention, cast, mul, param, reshape, rms_norm, rsqrt, transpose } from "../ir/ops/index.ts";
import { any, type Pattern, scalar } from "../ir/pattern.ts";
import { type DType, tensor } from "../ir/type.ts";
import { type Pass, pass } from "../passes/pass.ts";
import { rewrite, rule } from "../passes/rewrite.ts";

// What stands in `unrun` is for the type checker alone: `tsc` fails where an expected error is missing.
const unrun = (_: () => unknown) => expect(true).toBe(true);
const x = param({ name: "x", type: tensor("f32", 4) });

describe("calls", () => {
  test("give a value for values and a pattern for patterns", () => {
    expectTypeOf(rms_norm(x, x, { eps: 1e-5 })).toEqualTypeOf<Value>();
    expectTypeOf(mul(x, 2)).toEqualTypeOf<Value>();
    expectTypeOf(mul(any("a"), rsqrt(add(any("b"), scalar("eps"))))).toExtend<
      Pattern<{ a: Value; b: Value; eps: number }>
    >();
    expectTypeOf(mul(any("a"), 2)).toExtend<Pattern<{ a: Value }>>();
  });

  test("take the operands and attributes that the table says", () => {
    // @ts-expect-error rms_norm takes two operands
    unrun(() => rms_norm(x));
    // @ts-expect-error and no third
    unrun(() => rms_norm(x, x, x));
    // @ts-expect-error eps is a float
    unrun(() => rms_norm(x, x, { eps: "tiny" }));
    // @ts-expect-error no such attribute
    unrun(() => rms_norm(x, x, { epsilon: 1 }));
    // @ts-expect-error f64 is not an element type
    unrun(() => cast(x, { to: "f64" }));
    // @ts-expect-error a size is a number or symbolic, not text
    unrun(() => reshape(x, { shape: ["T"] }));
    // @ts-expect-error axes are numbers
    unrun(() => transpose(x, { perm: "[1,0]" }));
    // @ts-expect-error a tensor has no other element types either
    unrun(() => tensor("float32", 4));
  });

  test("`of` names operands and attributes", () => {
    unrun(() => {
      const a = attention.of(x);
      expectTypeOf(a?.q).toEqualTypeOf<Value | undefined>();
      expectTypeOf(a?.attrs.scale).toEqualTypeOf<number | undefined>();
      expectTypeOf(a?.attrs.causal).toEqualTypeOf<boolean | undefined>();
      // @ts-expect-error attention has no operand called query
      void a?.query;
      // @ts-expect-error it may not be attention at all
      void a.q;
    });
  });
});

describe("rules", () => {
  test("bodies see what their pattern captures", () => {
    rule("typed", add(any("a"), scalar("n")), (m) => {
      expectTypeOf(m.a).toEqualTypeOf<Value>();
      expectTypeOf(m.n).toEqualTypeOf<number>();
      // @ts-expect-error no capture is called b
      void m.b;
      return m.a;
    });
    // @ts-expect-error a rule gives a value, not a number
    unrun(() => rule("wrong", add(any("a"), scalar("n")), ({ n }) => n));
  });
});

describe("op tables", () => {
  test("an entry's functions see its own operands and attributes", () => {
    unrun(() => {
      const entry = primitive("typed_entry", {
        doc: "A test.",
        inputs: ["left", "right"],
        attrs: { mode: oneOf("near", "far"), n: int() },
        example: [["f32[2]", "f32[2]"], { n: 1 }],
        infer: ({ left, right }, { mode, n }) => {
          expectTypeOf(mode).toEqualTypeOf<"near" | "far">();
          expectTypeOf(n).toEqualTypeOf<number>();
          return n ? left : right;
        },
        // @ts-expect-error there is no operand called middle
        eval: ({ middle }) => middle,
      });
      return entry(x, x, { n: 1 });
    });
    unrun(() =>
      // @ts-expect-error an op that means nothing: neither eval nor decompose
      primitive("meaningless", { doc: "A test.", inputs: ["x"], example: [["f32[2]"]], infer: () => x.type }),
    );
    unrun(() =>
      composite("wrong_meaning", {
        doc: "A test.",
        inputs: ["x"],
        example: [["f32[2]"]],
        // @ts-expect-error a decomposition is a value, not a type
        decompose: ({ x }) => x.type,
      }),
    );
  });

  test("values do not change", () => {
    // @ts-expect-error a node is immutable
    unrun(() => (x.type = tensor("f32")));
    // @ts-expect-error and so is its shape
    unrun(() => x.shape.push(1));
    // @ts-expect-error and a graph's outputs
    unrun(() => (g: Graph) => (g.outputs.y = x));
  });
});

describe("backends", () => {
  type Table = Emitters<string>;
  const emit: Emit<string> = (cx, v) => `${cx}${v.id}`;

  test("names are read off the op table", () => {
    expectTypeOf<"add" | "matmul" | "param" | "update">().toExtend<PrimitiveName>();
    expectTypeOf<"rms_norm" | "attention">().toExtend<CompositeName>();
    expectTypeOf<PrimitiveName & CompositeName>().toBeNever();
    expectTypeOf<"rms_norm">().not.toExtend<PrimitiveName>();
  });

  test("a table that lacks one primitive does not compile", () => {
    unrun(() => {
      const whole = {} as { readonly [K in PrimitiveName]: Emit<string> };
      expectTypeOf(whole).toExtend<Table>();
      expectTypeOf<Omit<Table, "update">>().not.toExtend<Table>();
      const { update, ...lacking } = whole;
      // @ts-expect-error update is missing
      const partial: Table = lacking;
      return [update, partial];
    });
  });

  test("composites are a bonus, and unknown names an error", () => {
    unrun(() => {
      const whole = {} as { readonly [K in PrimitiveName]: Emit<string> };
      const more = { ...whole, rms_norm: emit } satisfies Table;
      // @ts-expect-error there is no op called rmsnorm
      const misspelt = { ...whole, rmsnorm: emit } satisfies Table;
      // @ts-expect-error an emitter says what its value is called
      const silent = { ...whole, gelu: () => {} } satisfies Table;
      return [more, misspelt, silent];
    });
  });
});

describe("passes", () => {
  test("take the options that they declare", () => {
    const scale = pass("typed-pass", {
      doc: "A test.",
      options: { by: float(2), bits: oneOf(8, 4) },
      run: (g, { by, bits }) => {
        expectTypeOf(by).toEqualTypeOf<number>();
        expectTypeOf(bits).toEqualTypeOf<8 | 4>();
        return g;
      },
    });
    expectTypeOf(scale()).toEqualTypeOf<Pass>();
    expectTypeOf(scale({ by: 3, bits: 4 })).toEqualTypeOf<Pass>();
    expectTypeOf(rewrite("typed-rewrite", { doc: "A test.", rules: [] })).returns.toEqualTypeOf<Pass>();
    // @ts-expect-error bits are 8 or 4
    unrun(() => scale({ bits: 5 }));
    // @ts-expect-error no such option
    unrun(() => scale({ times: 2 }));
    const options = { by: float(), to: oneOf<DType>("f32", "bf16") };
    expectTypeOf<AttrsOf<typeof options>>().toEqualTypeOf<{ readonly by: number; readonly to: DType }>();
  });
});
