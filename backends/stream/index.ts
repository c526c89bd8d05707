export { byteLength, WeightStream } from "./blocks.ts";
export { type Codes, type CodesJob, decodeRows, encodeRows } from "./codes.ts";
export { decode, encode } from "./floats.ts";
export { Pool } from "./pool.ts";
export { even, interleaved, type SharedMemory, Workbench } from "./simd/index.ts";
export { encodeTile, inTile, type TileJob, tileElements, tilesFor } from "./tile.ts";
