/** What a variable, a register or an element of memory can hold. Narrow floats and codes are unpacked when loaded. */
export type Scalar = "f32" | "f16" | "i32" | "u32" | "bool";
export type Vector = `${"f32" | "f16" | "i32" | "u32"}x${2 | 4}`;
export type Type = Scalar | Vector;

/** The type of one lane: `f32` for `f32x4`. */
export type Lane<T extends Type> = T extends `${infer S}x${number}` ? Extract<S, Scalar> : Extract<T, Scalar>;

/** How many lanes a type has, and what each holds. */
export function lanes(type: Type): { readonly scalar: Scalar; readonly count: number } {
  const [scalar, count] = type.split("x") as [Scalar, string | undefined];
  return { scalar, count: Number(count ?? 1) };
}
