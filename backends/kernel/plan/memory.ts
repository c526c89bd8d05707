/** Memory that is in use from the launch that writes it to the last that reads it, both included. */
export interface Lifetime {
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

/** Where each of `all` lies in one arena, so that none meets another that is in use at the same time. */
export function arrange(
  all: readonly Lifetime[],
  alignment: number,
): { readonly offsets: readonly number[]; readonly bytes: number } {
  const up = (n: number) => Math.ceil(n / alignment) * alignment;
  // The largest first: small ones fit into what they leave.
  const order = [...all.keys()].sort(
    (a, b) => (all[b] as Lifetime).bytes - (all[a] as Lifetime).bytes || a - b,
  );
  const offsets = new Array<number>(all.length).fill(0);
  const placed: number[] = [];
  let end = 0;
  for (const i of order) {
    const own = all[i] as Lifetime;
    const inWay = placed
      .filter((j) => (all[j] as Lifetime).first <= own.last && own.first <= (all[j] as Lifetime).last)
      .sort((a, b) => (offsets[a] as number) - (offsets[b] as number));
    let at = 0;
    for (const j of inWay) {
      if (at + own.bytes <= (offsets[j] as number)) break;
      at = Math.max(at, up((offsets[j] as number) + (all[j] as Lifetime).bytes));
    }
    offsets[i] = at;
    placed.push(i);
    end = Math.max(end, at + own.bytes);
  }
  return { offsets, bytes: up(end) };
}
