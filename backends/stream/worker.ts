import { parentPort, workerData } from "node:worker_threads";
import { type SharedMemory, Workbench } from "./simd/index.ts";
import { encodeTile, type TileJob } from "./tile.ts";

const bench = new Workbench(workerData as SharedMemory);
parentPort?.on("message", ({ id, job }: { id: number; job: TileJob }) =>
  parentPort?.postMessage({ id, done: encodeTile(bench, job) }),
);
