import { parentPort } from "node:worker_threads";
import { type CodesJob, encodeRows } from "./codes.ts";

parentPort?.on("message", ({ id, job }: { id: number; job: CodesJob }) => {
  const done = encodeRows(job);
  const buffers = [done.codes.buffer, done.scales.buffer, done.zeros.buffer] as ArrayBuffer[];
  parentPort?.postMessage({ id, done }, buffers);
});
