// Bytes a second that several threads read from memory together: what decoding one token at a time is bound by.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";

const c = `
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
enum { MB = 1 << 20 };
typedef struct { uint64_t *at; size_t n; uint64_t sum; } part;
static void *sum(void *arg) {
  part *p = arg;
  uint64_t s[8] = {0};
  /* Four far streams, which the processor fetches ahead: one alone reads less. */
  const size_t n = p->n / 4; const uint64_t *a = p->at, *b = a + n, *c = b + n, *d = c + n;
  for (size_t i = 0; i < n; i += 8) for (int k = 0; k < 8; k++) s[k] += a[i + k] + b[i + k] + c[i + k] + d[i + k];
  for (int k = 0; k < 8; k++) p->sum += s[k];
  return 0;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
int main(int argc, char **argv) {
  int threads = atoi(argv[1]); size_t bytes = 512ul * MB; double best = 0;
  char *memory = malloc(bytes * threads); memset(memory, 1, bytes * threads);
  for (int round = 0; round < 5; round++) {
    pthread_t t[64]; part p[64]; double start = now();
    for (int i = 0; i < threads; i++) {
      p[i] = (part){ (uint64_t *)(memory + bytes * i), bytes / 8, 0 };
      pthread_create(t + i, 0, sum, p + i);
    }
    for (int i = 0; i < threads; i++) { pthread_join(t[i], 0); if (p[i].sum == 1) puts(""); }
    double rate = bytes * threads / (now() - start);
    if (rate > best) best = rate;
  }
  printf("%.0f", best);
}`;

/** Gives a function that measures. A C program, where there is a compiler; else workers. */
export function bandwidth(cache, threads) {
  try {
    mkdirSync(cache, { recursive: true });
    const program = join(cache, "bandwidth");
    writeFileSync(`${program}.c`, c);
    execFileSync("cc", ["-O3", "-march=native", "-pthread", "-o", program, `${program}.c`], {
      stdio: "pipe",
    });
    return { by: "C", measure: async () => Number(execFileSync(program, [String(threads)])) };
  } catch {
    return { by: "JavaScript (no C compiler: a lower bound)", measure: () => inWorkers(threads) };
  }
}

const source = `
  const { parentPort } = require("node:worker_threads");
  const n = 1 << 25;
  const a = new Float64Array(n).fill(1);
  parentPort.on("message", () => {
    let [p, q, r, s] = [0, 0, 0, 0];
    for (let i = 0; i < n; i += 4) { p += a[i]; q += a[i + 1]; r += a[i + 2]; s += a[i + 3]; }
    parentPort.postMessage([n * 8, p + q + r + s]);
  });
  parentPort.postMessage([0, 0]);`;

async function inWorkers(threads) {
  const workers = Array.from({ length: threads }, () => new Worker(source, { eval: true }));
  const answers = () =>
    Promise.all(workers.map((w) => new Promise((done) => w.once("message", ([bytes]) => done(bytes)))));
  await answers();
  let best = 0;
  for (let round = 0; round < 5; round++) {
    const start = performance.now();
    const all = answers();
    for (const w of workers) w.postMessage(0);
    const bytes = (await all).reduce((a, b) => a + b, 0);
    best = Math.max(best, (bytes / (performance.now() - start)) * 1000);
  }
  await Promise.all(workers.map((w) => w.terminate()));
  return best;
}
