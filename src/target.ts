import type {
  About,
  Backend,
  CacheSize,
  EmittedFile,
  ModelFacts,
  ModuleInterface,
  Session,
} from "../backends/backend.ts";
import { c, openSession as openC } from "../backends/c/index.ts";
import { cuda, gpuMissing, openSession as openCuda } from "../backends/cuda/index.ts";
import { onnx, openSession as openOnnx, Parts, type WeightStorage } from "../backends/onnx/index.ts";
import { openPieces, openSession as openStableHlo, stablehlo } from "../backends/stablehlo/index.ts";
import { halvesHere, openSession as openWgsl, programs, wgsl } from "../backends/wgsl/index.ts";
import { UserError } from "../ir/error.ts";
import type { Graph } from "../ir/graph.ts";
import { clientFiles, configFile, ownCaches } from "./artifact/clients.ts";
import { programFiles, type SideFile, selftestBytes, selftestFile } from "./artifact/program.ts";
import type { Checkpoint } from "./checkpoint/checkpoint.ts";
import { type Artifact, onnxArtifact, type PlannedFile, wgslArtifact } from "./plan/artifact.ts";
import { cArtifact, cudaArtifact } from "./plan/programs.ts";
import { stablehloArtifact } from "./plan/stablehlo.ts";
import { clientFeeds } from "./verify/feeds.ts";
import { type Fault, type ProbeRequest, probe } from "./verify/probe.ts";
import { type Proof, type ProofRequest, proofTokens, prove, runTwin, type Twin } from "./verify/proof.ts";
import { allowedApart, allowedByCodes, proveWhole } from "./verify/whole.ts";

/** What the targets can be told; each reads what concerns it. */
export interface TargetOptions extends CacheSize {
  /** How weights lie in the artifact: "stored" (the default) keeps the dtype of the checkpoint, "f32" suits runtimes without bf16. */
  readonly weights?: WeightStorage;
  /** Which operators the ONNX graph may use: "standard" ones only, or those of ONNX Runtime ("ort"), which are faster. */
  readonly profile?: "standard" | "ort";
  /** StableHLO: texts that are run at once. */
  readonly batch?: number;
  /** StableHLO and CUDA: "bf16" lets products round to that what they multiply, as is fastest, and keeps caches in it. */
  readonly arithmetic?: "f32" | "bf16";
  /** StableHLO: products of fewer rows are padded to this many; 8 suits a TPU that decodes one text. */
  readonly rows?: number;
  /** StableHLO: whether layers are turns of a loop over stacked weights: text and compile time do not grow with depth. */
  readonly scanLayers?: boolean;
  /** StableHLO: devices to run on, as in `data=2,model=4`. */
  readonly mesh?: string;
  /** StableHLO: tokens that a step of prefill takes. */
  readonly prefill?: number;
  /** WGSL: device limits to count on beyond those of every WebGPU, as in `maxBufferSize=2147483648`. */
  readonly limits?: string;
}

interface OpenOptions {
  readonly modules?: Readonly<Record<string, ModuleInterface>>;
  readonly facts: ModelFacts;
  readonly watch?: Readonly<Record<string, string>>;
  readonly exact?: boolean;
  /** What the artifact is made of. */
  readonly files: readonly EmittedFile[];
}
interface SideRequest {
  readonly checkpoint: Checkpoint;
  readonly facts: ModelFacts;
  /** What was emitted. */
  readonly graph: Graph;
  readonly emitted: readonly EmittedFile[];
  readonly warn: (message: string) => void;
  /** What to prove the artifact by; absent when it will not be proven. */
  readonly proof?: ProofRequest;
}
/** Files for an artifact, and what the interpreter computed for them. */
interface Sides {
  readonly files: readonly SideFile[];
  readonly twin?: Twin;
}

interface PlanRequest {
  /** Ready to emit. */
  readonly graph: Graph;
  readonly about: About;
  readonly options: TargetOptions;
  /** Absent for a preset: then nothing lies beside what the backend emits. */
  readonly checkpoint: Checkpoint | undefined;
}
interface Planned {
  readonly artifact: Artifact;
  readonly beside: readonly PlannedFile[];
}

/** What the compiler knows of a target beside its backend. */
export interface Target {
  backend(options: TargetOptions): Backend;
  /** Opens an artifact. */
  open(dir: string, options: OpenOptions): Promise<Session>;
  /** The files beside those that the backend emits. */
  beside(request: SideRequest): Promise<Sides>;
  /** What `backend` and `beside` would write. */
  plan(request: PlanRequest): Promise<Planned>;
  prove(request: ProofRequest, twin: Twin | undefined): Promise<Proof>;
  /** Tries single operations of an artifact on made-up operands; for targets whose artifacts run piece by piece from any cache. */
  readonly probe?: (request: ProbeRequest) => Promise<Fault | undefined>;
  /** Whether an artifact's products round what they multiply, unless its session is to be exact. */
  readonly rounds?: (dir: string) => Promise<boolean>;
  /** The share by which results may be off over so many layers, in `verify`, where products always round what they multiply with codes. */
  readonly codesTolerance?: (layers: number) => number;
}

/** What a program of its own reads beside its weights. */
async function programSides({ checkpoint, facts, warn, proof }: SideRequest): Promise<Sides> {
  const twin = proof && (await runTwin(proof));
  const selftest = twin && selftestFile(proof, twin, allowedApart(proof));
  const config = await configFile(checkpoint, facts);
  const files = [
    ...(await programFiles(checkpoint, warn, selftest)),
    { path: config.path, content: config.text },
  ];
  return { files, ...(twin && { twin }) };
}

/** The same, without writing it. */
async function programSidesPlanned({
  about: { facts },
  graph,
  checkpoint,
}: PlanRequest): Promise<PlannedFile[]> {
  if (!checkpoint) return [];
  const { files } = await programSides({ checkpoint, facts, graph, emitted: [], warn: () => {} });
  return [
    { path: "selftest.bin", bytes: selftestBytes(proofTokens, facts.vocab, facts.layers) },
    ...files.map(({ path, content }) => ({ path, bytes: Buffer.byteLength(content) })),
  ];
}

/** A text that `verify` is given is longer than the proof's. */
const ofText = (layers: number): number => 2.5 * allowedByCodes(layers);

export const targetTable = {
  onnx: {
    backend: onnx,
    open: openOnnx,
    async beside({ checkpoint, facts, graph, emitted, warn }) {
      const own = ownCaches(graph);
      if (own)
        warn(
          `the caches ${own}, which gemmac runs; transformers.js and onnxruntime-genai cannot feed them, so their files are left out`,
        );
      const dataFiles = emitted.filter((f) => f.path.includes("_data")).length;
      const files = clientFiles(checkpoint, facts, graph, dataFiles);
      return { files: files.map(({ path, text }) => ({ path, content: text })) };
    },
    async plan({ graph, about: { facts }, options: { profile = "ort" }, checkpoint }) {
      const artifact = onnxArtifact(graph, facts, profile);
      const beside = checkpoint ? clientFiles(checkpoint, facts, graph, artifact.files.length - 1) : [];
      return { artifact, beside: beside.map(({ path, text }) => ({ path, bytes: Buffer.byteLength(text) })) };
    },
    prove: (request) =>
      prove(request, async (dir, facts, ids) => {
        const [parts, feeds] = [await Parts.open(dir), await clientFeeds(facts, ids)];
        return {
          run: (given, wanted) => parts.run(given, feeds, wanted),
          ...(parts.rounds && {
            rounded: (given, wanted) => parts.run(given, feeds, wanted, { asRun: true }),
          }),
          close: async () => {},
        };
      }),
    probe,
    rounds: async (dir) => (await Parts.open(dir)).rounds,
  },
  c: {
    backend: (_: TargetOptions) => c(),
    open: openC,
    beside: programSides,
    plan: async (request) => ({
      artifact: await cArtifact(request.graph, request.about.facts),
      beside: await programSidesPlanned(request),
    }),
    prove: (request, twin) =>
      proveWhole(request, (watch) => openC(request.dir, { facts: request.facts, watch }), twin),
    codesTolerance: ofText,
  },
  cuda: {
    backend: cuda,
    open: openCuda,
    beside: programSides,
    plan: async (request) => ({
      artifact: await cudaArtifact(request.graph, request.about.facts),
      beside: await programSidesPlanned(request),
    }),
    async prove(request, twin) {
      // Without a GPU the very same sources run on the processor.
      const missing = await gpuMissing();
      const processor = missing !== undefined;
      const open = (watch: Readonly<Record<string, string>>) =>
        openCuda(request.dir, { facts: request.facts, watch, processor });
      const proof = await proveWhole(request, open, twin);
      return processor
        ? { ...proof, instead: `on the processor, by a C++ compiler: ${missing}, so no GPU has run it` }
        : proof;
    },
    codesTolerance: ofText,
  },
  stablehlo: {
    backend: stablehlo,
    open: (dir, { facts, modules = {}, watch = {} }) => openStableHlo(dir, { facts, modules, watch }),
    beside: async () => ({ files: [] }),
    plan: async ({ graph, options }) => ({ artifact: stablehloArtifact(graph, options), beside: [] }),
    prove: (request) => prove(request, openPieces),
  },
  wgsl: {
    backend: wgsl,
    open: openOnGpu,
    beside: async () => ({ files: [] }),
    plan: async ({ graph, about, options }) => ({
      artifact: wgslArtifact(graph, about, options.limits),
      beside: [],
    }),
    async prove(request, twin) {
      const open = (exact: boolean) => (watch: Readonly<Record<string, string>>) =>
        openOnGpu(request.dir, { ...request, watch, exact });
      return proveWhole(request, open(true), twin, {
        stepwise: true,
        ...((await halvesHere()) && { asRun: open(false) }),
      });
    },
  },
} as const satisfies Readonly<Record<string, Target>>;

/** The program of an artifact that a GPU runs; where values are to be watched, the one that keeps them. */
function openOnGpu(dir: string, { facts, files, exact = false, watch = {} }: OpenOptions): Promise<Session> {
  const watched = Object.keys(watch);
  const path = watched.length > 0 ? programs.watched : programs.lean;
  const program = files.find((f) => f.path === path);
  if (!program)
    throw new UserError("input", `${dir}: the manifest names no ${path}`, "compile the checkpoint again");
  return openWgsl(dir, { facts, program, exact, watch: watched });
}

export type TargetName = keyof typeof targetTable;
export const isTarget = (name: string): name is TargetName => Object.hasOwn(targetTable, name);
