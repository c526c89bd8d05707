/** Makes a random checkpoint of a known shape in `dir/<name>` unless it is there; gives its path. */
export function synthetic(dir: string, name: string): Promise<string>;
