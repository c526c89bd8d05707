// One model in a process of its own, measured on request: `fork("engine.mjs", ["gemmac" | "llama", path, threads, …])`.
// A request is {prompt, decode}: score `prompt` tokens at once, then generate `decode` more, one by one, greedily.
// The answer is {prefill, steps}: seconds, and seconds of each step.
const [engine, path, threads, modules] = process.argv.slice(2);

const engines = {
  async gemmac() {
    const { openModel } = await import("../../dist/src/index.js");
    const { session } = await openModel(path);
    return {
      reset: () => session.reset(),
      async next(ids) {
        const { logits } = await session.append(ids, { last: true });
        let best = 0;
        for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
        return best;
      },
    };
  },
  /** The lowest level that node-llama-cpp offers: evaluate tokens, take the likeliest after the last. */
  async llama() {
    const { getLlama, LlamaLogLevel } = await import(modules);
    const llama = await getLlama({
      gpu: false,
      build: "never",
      skipDownload: true,
      logLevel: LlamaLogLevel.error,
      maxThreads: Number(threads),
    });
    const model = await llama.loadModel({ modelPath: path });
    const context = await model.createContext({
      contextSize: 1024,
      batchSize: 512,
      threads: Number(threads),
      sequences: 1,
    });
    const sequence = context.getSequence();
    const pick = { generateNext: { token: true, options: { temperature: 0 } } };
    return {
      reset: () => sequence.clearHistory(),
      async next(ids) {
        const input = ids.map((id, i) => (i === ids.length - 1 ? [id, pick] : id));
        const out = await sequence.controlledEvaluate(input);
        return out[ids.length - 1].next.token;
      },
    };
  },
};

const model = await engines[engine]();
const seconds = async (run) => {
  const start = performance.now();
  const value = await run();
  return [(performance.now() - start) / 1000, value];
};
process.on("message", async ({ prompt, decode }) => {
  await model.reset();
  const ids = Array.from({ length: prompt }, (_, i) => 1000 + ((i * 7919) % 200_000));
  let [prefill, id] = await seconds(() => model.next(ids));
  const [steps, tokens] = [[], [id]];
  for (let i = 0; i < decode; i++) {
    const [s, next] = await seconds(() => model.next([id]));
    steps.push(s);
    tokens.push((id = next));
  }
  process.send({ prefill, steps, tokens });
});
process.on("disconnect", () => process.exit(0));
process.send("ready");
