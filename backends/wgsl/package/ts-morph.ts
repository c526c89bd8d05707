import { createRequire } from "node:module";

/** The package, loaded on first use: it takes 60 MB, and only what prints TypeScript needs it. */
export const tsMorph = (): typeof import("ts-morph") => createRequire(import.meta.url)("ts-morph");
