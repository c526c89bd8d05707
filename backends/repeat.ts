/** Items [from, from + period · times) are the same thing again and again. */
export interface Repeat {
  readonly from: number;
  readonly period: number;
  readonly times: number;
}

/** The longest repetition among items that are alike where their keys are; undefined when there is none worth a loop. */
export function longestRepeat(keys: readonly string[]): Repeat | undefined {
  let best: Repeat | undefined;
  const covered = (r: Repeat | undefined) => (r ? r.period * r.times : 0);
  for (let period = 1; period <= keys.length / 2; period++) {
    // Runs of items that equal the item one period later.
    for (let from = 0, length = 0; from + length + period <= keys.length; ) {
      if (from + length + period < keys.length && keys[from + length] === keys[from + length + period])
        length++;
      else {
        const times = Math.floor(length / period) + 1;
        const found = { from, period, times };
        if (times > 1 && period > 2 && covered(found) > covered(best)) best = found;
        from += length + 1;
        length = 0;
      }
    }
  }
  return best;
}
