// A static file server with faults that tests can switch on.
import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json", ".wgsl": "text/plain" };

/**
 * Serves `folder`. `faults` may be changed at any time: `hold` (paths that get no answer until they leave the set),
 * `flip` (paths whose first byte is wrong), `cut` (paths whose connection breaks half way, once each).
 */
export async function serve(folder) {
  const faults = { hold: new Set(), flip: new Set(), cut: new Set() };
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname)).replace(/^\/+/, "");
    const full = join(folder, path);
    requests.push({ path, range: request.headers.range });
    const found = await stat(full).catch(() => undefined);
    if (!found?.isFile() || path.startsWith("..")) {
      response.writeHead(404).end();
      return;
    }
    while (faults.hold.has(path)) await new Promise((done) => setTimeout(done, 20));
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const head = {
      "content-type": types[extname(path)] ?? "application/octet-stream",
      "content-length": found.size - from,
      "cache-control": "no-store",
    };
    response.writeHead(from ? 206 : 200, from ? { ...head, "content-range": `bytes ${from}-${found.size - 1}/${found.size}` } : head);
    if (faults.flip.has(path)) {
      const bytes = await readFile(full);
      bytes[0] ^= 1;
      response.end(bytes.subarray(from));
    } else if (faults.cut.delete(path)) {
      // A browser throws away what it has not read when the connection breaks; a busy one needs its time.
      const half = (await readFile(full)).subarray(from, from + Math.floor(found.size / 2));
      response.write(half, () => setTimeout(() => response.destroy(), 1000));
    } else createReadStream(full, { start: from }).pipe(response);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { url: `http://localhost:${server.address().port}/`, faults, requests, close: () => server.close() };
}
