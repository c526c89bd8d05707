/** A part of a name that counts layers: `n`, `6n` or `6n+1`; `_` stands for `+` where the text allows no such sign. */
const counting = /^(\d*)n(?:[+_](\d+))?$/;

/**
 * What tensors of layers that follow one another are called together: `model.layers.n.mlp`, or `model.layers.6n+1.mlp`
 * where each is six after the one before. Undefined when the names differ in anything else than one such number.
 */
export function nameOfAll(names: readonly string[]): string | undefined {
  const split = names.map((name) => name.split("."));
  const [first = [], second = []] = split;
  const at = first.findIndex((part, i) => part !== second[i]);
  const [start, step] = [Number(first[at]), Number(second[at]) - Number(first[at])];
  if (at < 0 || !Number.isSafeInteger(start) || !(step > 0)) return undefined;
  const follows = (parts: readonly string[], n: number) =>
    parts.length === first.length &&
    parts.every((part, i) => part === (i === at ? String(start + n * step) : first[i]));
  if (!split.every(follows)) return undefined;
  const shown = `${step === 1 ? "" : step}n${start ? `+${start}` : ""}`;
  return first.with(at, shown).join(".");
}

/** What a value of the text that stands for all layers is called where it stands for the layers of step `n`. */
export function nameOfOne(name: string, n: number): string {
  const parts = name.slice(1).split(".");
  const at = parts.findIndex((part) => counting.test(part));
  if (at < 0) return `%at${n}.${name.slice(1)}`;
  const [, step, start] = counting.exec(parts[at] as string) ?? [];
  return `%${parts.with(at, String(Number(step || 1) * n + Number(start ?? 0))).join(".")}`;
}
