export { evaluate } from "./evaluate.ts";
export { product } from "./product.ts";
export { openReference } from "./session.ts";
