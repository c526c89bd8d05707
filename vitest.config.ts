import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // C is built often and run briefly.
    env: { GEMMAC_CFLAGS: "-O1" },
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
  },
});
