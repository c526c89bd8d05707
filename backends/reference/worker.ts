import { parentPort, workerData } from "node:worker_threads";
import { type SharedMemory, Workbench } from "../stream/index.ts";
import { type ProductJob, product } from "./product.ts";

const bench = new Workbench(workerData as SharedMemory);
parentPort?.on("message", ({ id, job }: { id: number; job: ProductJob }) => {
  product(bench, job);
  parentPort?.postMessage({ id });
});
