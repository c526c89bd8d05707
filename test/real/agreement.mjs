// How near rows of scores are to each other.

export function best(row) {
  let top = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[top]) top = i;
  return top;
}

/** One row of scores: its likeliest token, and what its logarithms are short of being of probabilities. */
export function distribution(row) {
  const top = best(row);
  const p = new Float64Array(row.length);
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += p[i] = Math.exp(row[i] - row[top]);
  for (let i = 0; i < row.length; i++) p[i] /= sum;
  return { row, top, p, z: row[top] + Math.log(sum) };
}

/** KL(p ‖ q) of two distributions, in nats. */
export function divergence(p, q) {
  let kl = 0;
  for (let i = 0; i < p.row.length; i++) kl += p.p[i] * (p.row[i] - q.row[i]);
  return Math.max(0, kl - p.z + q.z);
}

/** Sums over positions. */
export class Tally {
  n = 0;
  kl = 0;
  same = 0;
  add(p, q) {
    this.n++;
    this.kl += divergence(p, q);
    this.same += p.top === q.top ? 1 : 0;
  }
  /** Shares of positions with the same likeliest token, and mean divergence. */
  cells() {
    return [`${((100 * this.same) / this.n).toFixed(2)} %`, (this.kl / this.n).toExponential(1)];
  }
}
