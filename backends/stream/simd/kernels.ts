import { type Code as Codes, ranges } from "../../../ir/ops/codes.ts";
import { type Body, func, type Local } from "./assembler.ts";
import { type Code, f32, f32x4, f64, f64x2, i8x16, i16x8, i32, i32x4, v128 } from "./instructions.ts";

type Vector = Code<"v128">;
const all = (n: number): Vector => i32x4.splat(i32.const(n));

/** Elements of f32 that a step of the loops takes. */
export const step = 16;

/** bf16 to f32; `end` is that of what is read. Steps of 8 elements. */
const widen = func("widen", ["from", "end", "to"], (f, { from, end, to }) => {
  f.while(i32.lt_u(from, end), () => {
    const halves = f.local("v128", v128.load(from));
    const sixteen = i32.const(16);
    f.store(to, i32x4.shl(i32x4.extend_low_i16x8_u(halves), sixteen));
    f.store(to, i32x4.shl(i32x4.extend_high_i16x8_u(halves), sixteen), 16);
    f.advance(from, 16);
    f.advance(to, 32);
  });
});

/** 1 where some number has an exponent of ones only: NaN or infinity. */
const nonFinite = (name: string, mask: Vector, equal: (a: Vector, b: Vector) => Vector) =>
  func(
    name,
    ["from", "end"],
    (f, { from, end }) => {
      const found = f.local("v128");
      const exponents = f.local("v128", mask);
      f.while(i32.lt_u(from, end), () => {
        f.set(found, v128.or(found, equal(v128.and(v128.load(from), exponents), exponents)));
        f.advance(from, 16);
      });
      f.return(v128.any_true(found));
    },
    { result: true },
  );

const halves = (mask: number) => i16x8.splat(i32.const(mask));

/** An f32 from 2²³ to 2²⁴ has no bits after the point: adding 1.5·2²³ rounds to the nearest whole number, halves to even. */
const magic = 1.5 * 2 ** 23;
/** What the bits of such a sum are more than the number. */
const magicBits = 0x4b400000;
/** Beyond this no number is a sum: NaN, which gets the code 0. */
const beyond = 2 ** 22;

/** The numbers at `at`, NaN as zero, and their magnitudes, which are in the order of their bits. */
const numbers = (at: Code<"i32">): Vector => v128.and(v128.load(at), f32x4.eq(v128.load(at), v128.load(at)));
const magnitudes = (at: Code<"i32">): Vector => v128.and(numbers(at), all(0x7fffffff));

/** The scale of a block that fills `from` to `end`: what block_scale around zero means. */
function scaleOf(f: Body, to: Codes, from: Local<"i32">, end: Local<"i32">): Local<"f32"> {
  const at = f.local("i32", from);
  const top = f.local("v128", all(0));
  f.while(i32.lt_u(at, end), () => {
    f.set(top, i32x4.max_s(top, magnitudes(at)));
    f.advance(at, 16);
  });
  const rotated = (bytes: number) =>
    v128.shuffle(
      top,
      top,
      places.map((i) => (i + bytes) % 16),
    );
  f.set(top, i32x4.max_s(top, rotated(8)));
  f.set(top, i32x4.max_s(top, rotated(4)));
  const largest = f.local("i32", i32x4.extract_lane(top, 0));
  const magnitude = f32.reinterpret_i32(largest);
  if (to === "i8")
    return f.local("f32", f32.demote_f64(f64.div(f64.promote_f32(magnitude), f64.const(ranges.i8[1]))));
  // The first value of that magnitude gives the sign.
  const hits = (): Code<"i32"> => i32x4.bitmask(i32x4.eq(magnitudes(at), top));
  f.set(at, from);
  f.while(i32.eqz(hits()), () => f.advance(at, 16));
  const found = f.local("i32", hits());
  const first = i32.and(found, i32.sub(i32.const(0), found));
  const negative = i32.ne(i32.and(first, i32x4.bitmask(numbers(at))), i32.const(0));
  const signed = f32.reinterpret_i32(i32.or(largest, i32.shl(negative, i32.const(31))));
  return f.local("f32", f32.mul(signed, f32.const(1 / ranges.i4[0])));
}

const places = Array.from({ length: 16 }, (_, i) => i);

/** The codes of four numbers, as 32-bit numbers: what quantize means around zero. */
function codesOf(f: Body, to: Codes, at: Code<"i32">, offset: number, scale: Vector): Local<"v128"> {
  const [low, high] = ranges[to];
  const sum = f32x4.add(f32x4.div(v128.load(at, offset), scale), f32x4.splat(f32.const(magic)));
  const whole = f.local("v128", i32x4.add(sum, all(-magicBits)));
  const sane = i32x4.le_u(i32x4.add(whole, all(beyond)), all(2 * beyond));
  return f.local("v128", v128.and(i32x4.max_s(i32x4.min_s(whole, all(high)), all(low)), sane));
}

/** Blocks of f32 from `x` to `end`, each of `width` bytes, to codes and a scale each. */
const encode = (to: Codes) =>
  func(`encode_${to}`, ["x", "end", "width", "codes", "scales"], (f, { x, end, width, codes, scales }) => {
    f.while(i32.lt_u(x, end), () => {
      const stop = f.local("i32", i32.add(x, width));
      const scale = scaleOf(f, to, x, stop);
      f.store(scales, scale);
      f.advance(scales, 4);
      const divisor = f.local("v128", f32x4.splat(scale));
      f.while(i32.lt_u(x, stop), () => {
        const codesAt = (offset: number) => codesOf(f, to, x, offset, divisor);
        const words = (offset: number) => i16x8.narrow_i32x4_s(codesAt(offset), codesAt(offset + 16));
        const bytes = f.local("v128", i8x16.narrow_i16x8_s(words(0), words(32)));
        if (to === "i8") f.store(codes, bytes);
        else {
          const high = v128.and(i16x8.shr_u(bytes, i32.const(4)), halves(0xf0));
          const pairs = f.local("v128", v128.or(v128.and(bytes, halves(0x0f)), high));
          f.storeLow(codes, i8x16.narrow_i16x8_u(pairs, pairs));
        }
        f.advance(codes, to === "i8" ? 16 : 8);
        f.advance(x, 64);
      });
    });
  });

/** The same blocks to the numbers that their codes stand for, in place. */
const round = (to: Codes) =>
  func(`round_${to}`, ["x", "end", "width"], (f, { x, end, width }) => {
    f.while(i32.lt_u(x, end), () => {
      const stop = f.local("i32", i32.add(x, width));
      const scale = f.local("v128", f32x4.splat(scaleOf(f, to, x, stop)));
      f.while(i32.lt_u(x, stop), () => {
        for (const offset of [0, 16, 32, 48]) {
          const codes = codesOf(f, to, x, offset, scale);
          f.store(x, f32x4.mul(f32x4.convert_i32x4_s(codes), scale), offset);
        }
        f.advance(x, 64);
      });
    });
  });

/** The most vectors of two sums that are kept at once. */
export const mostPairs = 6;

/**
 * Sums over a row of f32, `w` to `end`, each in the order of its columns and in f64: at `out` two for each of `pairs`.
 * `x` has a vector for each column and pair. Steps of two columns.
 */
const dots = (pairs: number) =>
  func(`dots_${pairs}`, ["w", "end", "x", "out"], (f, { w, end, x, out }) => {
    const sums = Array.from({ length: pairs }, () => f.local("v128"));
    f.while(i32.lt_u(w, end), () => {
      const two = f.local("v128", f64x2.promote_low_f32x4(v128.load64_zero(w)));
      for (const half of [0, 8]) {
        const weight = f.local(
          "v128",
          v128.shuffle(
            two,
            two,
            places.map((i) => (i % 8) + half),
          ),
        );
        for (const [i, sum] of sums.entries())
          f.set(sum, f64x2.add(sum, f64x2.mul(v128.load(x, 16 * i), weight)));
        f.advance(x, 16 * pairs);
      }
      f.advance(w, 8);
    });
    for (const [i, sum] of sums.entries()) f.store(out, sum, 16 * i);
  });

export const kernels = [
  widen,
  nonFinite("nonfinite_f32", all(0x7f800000), i32x4.eq),
  nonFinite("nonfinite_f16", halves(0x7c00), i16x8.eq),
  nonFinite("nonfinite_bf16", halves(0x7f80), i16x8.eq),
  encode("i8"),
  encode("i4"),
  round("i8"),
  round("i4"),
  ...Array.from({ length: mostPairs }, (_, i) => dots(i + 1)),
];
