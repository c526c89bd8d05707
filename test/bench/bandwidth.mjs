// Bytes a second that several threads read from memory together: what decoding one token at a time is bound by.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";

const c = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
typedef uint64_t vec __attribute__((vector_size(32)));
enum { MOST = 64, ROUNDS = 6 };
static const size_t HUGE = 2 << 20, EACH = 512ul << 20;
static int threads, streams;
static char *memory;
static size_t each;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

/* Each thread reads its part as so many far streams, which the processor fetches ahead: what does best is no constant. */
#define READ(S) for (size_t i = 0; i < n; i += 4) for (int k = 0; k < 4; k++) for (int r = 0; r < S; r++) s[(r + k) % 8] += p[r * n + i + k]
static void *sum(void *id) {
  const vec *p = (const vec *)(memory + (intptr_t)id * each);
  const size_t n = each / sizeof *p / streams;
  vec s[8] = {0};
  if (streams == 1) READ(1);
  else if (streams == 2) READ(2);
  else if (streams == 4) READ(4);
  else READ(8);
  __asm__ volatile("" : : "r"(s) : "memory");
  return 0;
}
static void *touch(void *id) { return memset(memory + (intptr_t)id * each, 1, each); }
static void all(void *(*work)(void *)) {
  pthread_t t[MOST];
  for (intptr_t i = 1; i < threads; i++) pthread_create(t + i, 0, work, (void *)i);
  work(0);
  for (intptr_t i = 1; i < threads; i++) pthread_join(t[i], 0);
}
static double best(void) {
  double most = 0;
  for (int round = 0; round < ROUNDS; round++)
    for (streams = 1; streams <= 8; streams *= 2) {
      const double start = now();
      all(sum);
      const double rate = each * threads / (now() - start);
      if (rate > most) most = rate;
    }
  return most;
}
int main(int argc, char **argv) {
  threads = atoi(argv[1]) < MOST ? atoi(argv[1]) : MOST;
  /* Huge pages, so that looking addresses up takes no time, and each thread the first to touch its own. */
  each = EACH;
  char *own = mmap(0, each * threads + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (own == MAP_FAILED) return 1;
  memory = (char *)(((uintptr_t)own + HUGE - 1) / HUGE * HUGE);
  madvise(memory, each * threads, MADV_HUGEPAGE);
  all(touch);
  double most = best();
  munmap(own, EACH * threads + HUGE);
  /* And a file of weights, mapped as an artifact maps it. */
  struct stat found;
  const int fd = argc > 2 ? open(argv[2], O_RDONLY) : -1;
  if (fd >= 0 && !fstat(fd, &found)) {
    each = found.st_size / threads / 4096 * 4096;
    memory = mmap(0, found.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return 1;
    const double rate = best();
    if (rate > most) most = rate;
  }
  printf("%.0f", most);
}`;

/** Gives a function that measures. A C program, where there is a compiler, which also reads `file` from memory; else workers. */
export function bandwidth(cache, threads, file) {
  try {
    mkdirSync(cache, { recursive: true });
    const program = join(cache, "bandwidth");
    writeFileSync(`${program}.c`, c);
    execFileSync("cc", ["-O3", "-march=native", "-pthread", "-o", program, `${program}.c`], {
      stdio: "pipe",
    });
    return { by: "C", measure: async () => Number(execFileSync(program, [String(threads), ...(file ? [file] : [])])) };
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
