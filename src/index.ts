/** The public surface: the IR, its ops and passes, the models, and the compiler. */

export type { Session, Step } from "../backends/backend.ts";
export { type Dim, dim, minus, plus, product, times } from "../ir/dim.ts";
export { UserError } from "../ir/error.ts";
export { type Attr, Graph, type OpDef, OpError, type Value } from "../ir/graph.ts";
export { type Env, interpret } from "../ir/interpret.ts";
export {
  bool,
  composite,
  dims,
  dtype,
  float,
  int,
  ints,
  type Op,
  oneOf,
  primitive,
  registry,
  string,
} from "../ir/op.ts";
export * from "../ir/ops/index.ts";
export { any, Pattern, scalar } from "../ir/pattern.ts";
export type { HostTensor } from "../ir/tensor.ts";
export { parse, print } from "../ir/text/index.ts";
export { broadcast, type DType, parseType, TensorType, tensor } from "../ir/type.ts";
export { verify as verifyGraph } from "../ir/verify.ts";
export { decompose } from "../passes/decompose.ts";
export { foldWeights } from "../passes/fold-weights.ts";
export { canonicalize } from "../passes/fusion/canonicalize.ts";
export {
  fuseAttention,
  fuseGeglu,
  fuseLinear,
  fuseResidualNorm,
  fuseRmsNorm,
  fuseRope,
} from "../passes/fusion/fuse.ts";
export { packLinear } from "../passes/fusion/pack-linear.ts";
export { shareTables } from "../passes/fusion/share-tables.ts";
export { insertKvCache, quantizeCache } from "../passes/kv-cache.ts";
export { type Law, map, type Pass, type PassMaker, pass } from "../passes/pass.ts";
export { PassError, type PassRecord, parsePipeline, printPipeline, runPasses } from "../passes/pipeline.ts";
export { type Rule, raise, rewrite, rule } from "../passes/rewrite.ts";
export { type Manifest, readManifest } from "./artifact/manifest.ts";
export { type Model, openModel } from "./artifact/open.ts";
export { type Checkpoint, openCheckpoint } from "./checkpoint/checkpoint.ts";
export { type CompileOptions, type CompileReport, compile, targets } from "./compile.ts";
export { type Generated, type GenerateOptions, generate } from "./generate.ts";
export type { GemmaConfig } from "./model/config.ts";
export { gemma } from "./model/gemma.ts";
export { preset, presets } from "./model/presets.ts";
export { loadPasses, loadPipeline } from "./plugin/load.ts";
export type { TargetOptions } from "./target.ts";
export { loadTokenizer, type Tokenizer } from "./tokenizer/tokenizer.ts";
export { type VerifyOptions, type VerifyReport, verify } from "./verify/verify.ts";
export { version } from "./version.ts";
