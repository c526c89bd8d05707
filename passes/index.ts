import { decompose } from "./decompose.ts";
import { foldWeights } from "./fold-weights.ts";
import { canonicalize } from "./fusion/canonicalize.ts";
import { carryBlocks } from "./fusion/carry-blocks.ts";
import {
  fuseAttention,
  fuseGeglu,
  fuseLinear,
  fuseResidualNorm,
  fuseRmsNorm,
  fuseRope,
} from "./fusion/fuse.ts";
import { packLinear } from "./fusion/pack-linear.ts";
import { shareTables } from "./fusion/share-tables.ts";
import { insertKvCache, quantizeCache } from "./kv-cache.ts";
import { lastLogits } from "./last-logits.ts";
import type { AnyPassMaker } from "./pass.ts";
import { fuseQuant, quantize } from "./quantize.ts";
import { narrowCaches, roundFactors } from "./specialize/narrow.ts";
import { shard } from "./specialize/shard.ts";

const makers: readonly AnyPassMaker[] = [
  canonicalize,
  fuseLinear,
  fuseRmsNorm,
  fuseGeglu,
  fuseRope,
  fuseAttention,
  fuseResidualNorm,
  packLinear,
  shareTables,
  carryBlocks,
  narrowCaches,
  roundFactors,
  insertKvCache,
  lastLogits,
  quantize,
  quantizeCache,
  fuseQuant,
  foldWeights,
  shard,
  decompose,
];

/** Every pass that gemmac brings, by name. */
export const passes: ReadonlyMap<string, AnyPassMaker> = new Map(makers.map((m) => [m.name, m]));

/** Names that stand for several passes in a row. */
export const groups: ReadonlyMap<string, string> = new Map([
  ["fuse", "fuse-linear,fuse-rms-norm,fuse-geglu,fuse-rope,fuse-attention"],
]);
