import type { Backend, EmittedFile, ModelFacts, Session } from "../backends/backend.ts";
import { c, openSession as openC } from "../backends/c/index.ts";
import { type OnnxOptions, onnx, openSession as openOnnx } from "../backends/onnx/index.ts";
import { clientFiles, configFile } from "./artifact/clients.ts";
import { programFiles, type SideFile, selftestFile } from "./artifact/program.ts";
import type { Checkpoint } from "./checkpoint/checkpoint.ts";
import { type Proof, type ProofRequest, prove, runTwin, type Twin } from "./verify/proof.ts";
import { allowedWhole, proveWhole } from "./verify/whole.ts";

interface OpenOptions {
  readonly facts: ModelFacts;
  readonly watch?: Readonly<Record<string, string>>;
}
interface SideRequest {
  readonly checkpoint: Checkpoint;
  readonly facts: ModelFacts;
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

/** What the compiler knows of a target beside its backend. */
export interface Target {
  backend(options: OnnxOptions): Backend;
  /** Opens an artifact. */
  open(dir: string, options: OpenOptions): Promise<Session>;
  /** The files beside those that the backend emits. */
  beside(request: SideRequest): Promise<Sides>;
  prove(request: ProofRequest, twin: Twin | undefined): Promise<Proof>;
  /** The share by which products with codes may be off over all layers, in `verify`. */
  readonly codesTolerance: number;
}

export const targetTable = {
  onnx: {
    backend: onnx,
    open: openOnnx,
    async beside({ checkpoint, facts, emitted }) {
      const dataFiles = emitted.filter((f) => f.path.includes("_data")).length;
      const files = await clientFiles(checkpoint, facts, dataFiles);
      return { files: files.map(({ path, text }) => ({ path, content: text })) };
    },
    prove,
    codesTolerance: 0.2,
  },
  c: {
    backend: () => c(),
    open: openC,
    async beside({ checkpoint, facts, warn, proof }) {
      const twin = proof && (await runTwin(proof));
      const selftest = twin && selftestFile(proof.ids, twin, allowedWhole(proof));
      const config = await configFile(checkpoint, facts);
      const files = [
        ...(await programFiles(checkpoint, warn, selftest)),
        { path: config.path, content: config.text },
      ];
      return { files, ...(twin && { twin }) };
    },
    prove: (request, twin) =>
      proveWhole(request, (watch) => openC(request.dir, { facts: request.facts, watch }), twin),
    codesTolerance: 5e-3,
  },
} as const satisfies Readonly<Record<string, Target>>;

export type TargetName = keyof typeof targetTable;
export const isTarget = (name: string): name is TargetName => Object.hasOwn(targetTable, name);
