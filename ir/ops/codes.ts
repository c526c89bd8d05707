/** The whole numbers that quantized weights take. i8 leaves out -128, so that negation stays inside. */
export const ranges = { i8: [-127, 127], i4: [-8, 7] } as const;
export type Code = keyof typeof ranges;

/** Shrunken and stretched versions of the plain scale that a search tries. */
export const searchSteps = Array.from({ length: 13 }, (_, i) => 0.7 + i * 0.03);

export const clamp = (x: number, low: number, high: number): number => Math.min(high, Math.max(low, x));

/** To the nearest whole number; halves go to the even one. */
export function roundEven(x: number): number {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 !== 0 ? up - 1 : up;
}
