import type { Line, Store } from "./line.ts";

/**
 * The same lines, those that wait for equally many others side by side, so that threads meet seldom: query, key and
 * value between the same two meetings, say.
 */
export function inWaves(lines: readonly Line[]): { lines: Line[]; waves: number[] } {
  const written = new Map<unknown, number>();
  const read = new Map<unknown, number>();
  const key = (s: Store): unknown => (s.kind === "cache" ? s.index : s);
  const waves = lines.map((line) => {
    const after = [
      ...line.reads.map((s) => written.get(key(s))),
      ...line.writes.flatMap((s) => [written.get(key(s)), read.get(key(s))]),
    ];
    const wave = 1 + Math.max(-1, ...after.map((n) => n ?? -1));
    for (const s of line.reads) read.set(key(s), Math.max(wave, read.get(key(s)) ?? 0));
    for (const s of line.writes) written.set(key(s), wave);
    return wave;
  });
  // What every layer shares comes first; what is read at the end stays there.
  const last = lines.length;
  const place = (line: Line, i: number) =>
    line.once ? -1 : line.pieces.length === 0 ? last : (waves[i] as number);
  const sorted = lines.map((line, i) => [line, place(line, i)] as const).toSorted((a, b) => a[1] - b[1]);
  return { lines: sorted.map(([line]) => line), waves: sorted.map(([, wave]) => wave) };
}
