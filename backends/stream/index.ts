export { byteLength, WeightStream } from "./blocks.ts";
export { type Codes, type CodesJob, decodeRows, encodeRows } from "./codes.ts";
export { decode, encode } from "./floats.ts";
export { Pool } from "./pool.ts";
