/**
 * Byte-pair merging that keeps its speed on long pieces. Gemma's tokenizers have no pre-tokenizer, so one piece is
 * a whole paragraph or a whole file. The library's own merge looks up `JSON.stringify([left, right])` and allocates
 * a node per step: half a second more to load and about a second for 100 KB of unbroken text.
 */

/**
 * The merges of tokenizer.json as token ids, three a merge by rank: left, right, and what they give. Two spellings
 * exist: `"a b"`, and `["a", "b"]` where parts may hold spaces. There are over half a million, so nothing is made for
 * each. Throws an Error naming the first that is no pair, or whose parts or result the vocabulary lacks.
 */
export function mergeIds(vocab: ReadonlyMap<string, number>, merges: readonly unknown[]): Int32Array {
  const ids = new Int32Array(3 * merges.length);
  for (let rank = 0; rank < merges.length; rank++) {
    const merge = merges[rank];
    let left: unknown;
    let right: unknown;
    if (typeof merge === "string") {
      const space = merge.indexOf(" ");
      if (space >= 0 && !merge.includes(" ", space + 1)) {
        left = merge.slice(0, space);
        right = merge.slice(space + 1);
      }
    } else if (Array.isArray(merge) && merge.length === 2) [left, right] = merge;
    if (typeof left !== "string" || typeof right !== "string")
      throw new Error(`model.merges: entry ${rank} is not a pair of tokens`);
    const leftId = vocab.get(left);
    const rightId = vocab.get(right);
    const merged = vocab.get(left + right);
    if (leftId === undefined || rightId === undefined || merged === undefined)
      throw new Error(
        `merge ${rank} (${JSON.stringify(left)}, ${JSON.stringify(right)}) is not in the vocabulary`,
      );
    ids[3 * rank] = leftId;
    ids[3 * rank + 1] = rightId;
    ids[3 * rank + 2] = merged;
  }
  return ids;
}

/** What merging a pair of token ids gives, and how early it is done: a lower rank merges first. */
interface Rule {
  readonly rank: number;
  readonly merged: number;
}

/** The merges of a byte-pair model, by token id. */
export class MergeTable {
  readonly #vocab: ReadonlyMap<string, number>;
  /** Four numbers a slot (left, right, rank, merged), open addressing, left -1 where empty. */
  readonly #slots: Int32Array;
  readonly #mask: number;

  /** `merges` as `mergeIds` gives them. */
  constructor(vocab: ReadonlyMap<string, number>, merges: Int32Array) {
    this.#vocab = vocab;
    const count = merges.length / 3;
    const capacity = 2 ** Math.ceil(Math.log2(count * 1.5 + 2));
    this.#mask = capacity - 1;
    this.#slots = new Int32Array(capacity * 4).fill(-1);
    for (let rank = 0; rank < count; rank++) {
      const left = merges[3 * rank] as number;
      const right = merges[3 * rank + 1] as number;
      const slot = this.#slot(left, right);
      this.#slots[slot] = left;
      this.#slots[slot + 1] = right;
      this.#slots[slot + 2] = rank;
      this.#slots[slot + 3] = merges[3 * rank + 2] as number;
    }
  }

  /** The tokens of a piece, in order. A character the vocabulary lacks stays a token of its own. */
  split(piece: string): string[] {
    const starts: number[] = [];
    const ids: number[] = [];
    let at = 0;
    for (const char of piece) {
      starts.push(at);
      ids.push(this.#vocab.get(char) ?? -1);
      at += char.length;
    }
    const next = this.#merge(ids);
    const tokens: string[] = [];
    for (let i = 0; i < ids.length; i = next[i] as number)
      tokens.push(piece.slice(starts[i], starts[next[i] as number]));
    return tokens;
  }

  /** Merges `ids` in place; the result links each surviving position to the one after it. */
  #merge(ids: number[]): Int32Array {
    const count = ids.length;
    const next = Int32Array.from(ids, (_, i) => i + 1);
    const previous = Int32Array.from(ids, (_, i) => i - 1);
    const rule = (i: number): Rule | undefined => {
      const j = next[i] as number;
      return j < count ? this.#find(ids[i] as number, ids[j] as number) : undefined;
    };
    // Lowest rank first, then leftmost: one exact number per candidate orders both (rank < 2^21, count < 2^32).
    const queue = new MinHeap();
    const offer = (i: number): void => {
      const found = rule(i);
      if (found) queue.push(found.rank * count + i);
    };
    for (let i = 0; i < count; i++) offer(i);
    for (let top = queue.pop(); top !== undefined; top = queue.pop()) {
      const i = top % count;
      const found = rule(i);
      // Stale: one of the two has been merged away since.
      if (found?.rank !== Math.floor(top / count)) continue;
      const gone = next[i] as number;
      const after = next[gone] as number;
      ids[i] = found.merged;
      ids[gone] = -1;
      next[i] = after;
      if (after < count) previous[after] = i;
      const before = previous[i] as number;
      if (before >= 0) offer(before);
      offer(i);
    }
    return next;
  }

  #find(left: number, right: number): Rule | undefined {
    if (left < 0 || right < 0) return undefined;
    const slot = this.#slot(left, right);
    if (this.#slots[slot] === -1) return undefined;
    return { rank: this.#slots[slot + 2] as number, merged: this.#slots[slot + 3] as number };
  }

  /** Where the pair is, or where it would go. */
  #slot(left: number, right: number): number {
    const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    for (let i = mixed ^ (mixed >>> 15); ; i++) {
      const slot = (i & this.#mask) * 4;
      const holder = this.#slots[slot];
      if (holder === -1 || (holder === left && this.#slots[slot + 1] === right)) return slot;
    }
  }
}

/** A binary heap of numbers, smallest first. */
class MinHeap {
  readonly #items: number[] = [];

  push(item: number): void {
    const items = this.#items;
    let at = items.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent] as number;
      if (above <= item) break;
      items[at] = above;
      at = parent;
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const items = this.#items;
    const top = items[0];
    const item = items.pop();
    if (item === undefined || items.length === 0) return top;
    let at = 0;
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      const right = items[child + 1];
      if (right !== undefined && right < (items[child] as number)) child++;
      const below = items[child] as number;
      if (below >= item) break;
      items[at] = below;
      at = child;
    }
    items[at] = item;
    return top;
  }
}
