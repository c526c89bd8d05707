import type { Buffer, Line, Store } from "./line.ts";

/** Where buffers start: on cache lines. */
const alignment = 256;

interface Life {
  readonly first: number;
  last: number;
}

/**
 * The place of each buffer, such that no two that live at once overlap; and the bytes of all. Memory is free again after
 * a wave, so that the lines of one need not wait for each other.
 */
export function layOutMemory(
  lines: readonly Line[],
  waves: readonly number[],
): { offsets: ReadonlyMap<Buffer, number>; bytes: number } {
  const lives = livesOf(lines);
  const offsets = new Map<Buffer, number>();
  const live = new Set<Buffer>();
  let bytes = 0;
  for (const [i, line] of lines.entries()) {
    for (const buffer of line.writes) {
      if (buffer.kind !== "arena" || offsets.has(buffer)) continue;
      const heirloom = line.replaces
        .filter((b) => lives.get(b)?.last === i && b.bytes === buffer.bytes && !b.lasting && live.has(b))
        .toSorted((a, b) => (lives.get(a)?.first ?? 0) - (lives.get(b)?.first ?? 0))[0];
      if (heirloom) live.delete(heirloom);
      const offset = heirloom ? (offsets.get(heirloom) as number) : firstFit(buffer.bytes, live, offsets);
      offsets.set(buffer, offset);
      live.add(buffer);
      bytes = Math.max(bytes, offset + buffer.bytes);
    }
    if (waves[i] === waves[i + 1]) continue;
    for (const buffer of live)
      if (!buffer.lasting && (lives.get(buffer)?.last ?? 0) <= i) live.delete(buffer);
  }
  return { offsets, bytes: Math.ceil(bytes / alignment) * alignment };
}

function livesOf(lines: readonly Line[]): Map<Buffer, Life> {
  const lives = new Map<Buffer, Life>();
  lines.forEach((line, i) => {
    for (const store of [...line.reads, ...line.writes]) {
      if (store.kind !== "arena") continue;
      const life = lives.get(store) ?? { first: i, last: i };
      life.last = i;
      lives.set(store, life);
    }
  });
  return lives;
}

function firstFit(bytes: number, live: ReadonlySet<Buffer>, offsets: ReadonlyMap<Buffer, number>): number {
  const taken = [...live]
    .map((b) => [offsets.get(b) as number, b.bytes] as const)
    .sort((a, b) => a[0] - b[0]);
  let at = 0;
  for (const [offset, size] of taken) {
    if (at + bytes <= offset) break;
    at = Math.max(at, Math.ceil((offset + size) / alignment) * alignment);
  }
  return at;
}

/**
 * Before which lines all threads must meet: where one reads what another may have written since the last meeting, or
 * writes what another may still read or write.
 */
export function meetings(lines: readonly Line[], offsets: ReadonlyMap<Buffer, number>): boolean[] {
  let [reads, writes]: Range[][] = [[], []];
  return lines.map((line) => {
    const range = (s: Store) => rangeOf(s, offsets);
    const [r, w] = [line.reads.flatMap(range), line.writes.flatMap(range)];
    const meet =
      r.some((x) => writes?.some((y) => overlap(x, y))) ||
      w.some((x) => [...(reads ?? []), ...(writes ?? [])].some((y) => overlap(x, y)));
    if (meet) [reads, writes] = [[], []];
    reads?.push(...r);
    writes?.push(...w);
    return meet;
  });
}

interface Range {
  readonly space: string;
  readonly from: number;
  readonly to: number;
}
const overlap = (a: Range, b: Range): boolean => a.space === b.space && a.from < b.to && b.from < a.to;

function rangeOf(store: Store, offsets: ReadonlyMap<Buffer, number>): Range[] {
  if (store.kind === "cache") return [{ space: `cache ${store.index}`, from: 0, to: 1 }];
  if (store.kind !== "arena") return [];
  const from = offsets.get(store) as number;
  return [{ space: "arena", from, to: from + store.bytes }];
}
