import { parentPort } from "node:worker_threads";
import { type ProductJob, product } from "./product.ts";

parentPort?.on("message", ({ id, job }: { id: number; job: ProductJob }) => {
  const done = product(job);
  parentPort?.postMessage({ id, done }, [done.buffer as ArrayBuffer]);
});
