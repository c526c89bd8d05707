export { c, cPrelude } from "./c.ts";
export { askedBytes, cuda, cudaPrelude } from "./cuda.ts";
export { type WgslOptions, wgsl } from "./wgsl.ts";
