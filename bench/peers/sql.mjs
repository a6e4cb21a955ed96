// The statements of a .sql file of this folder, by the names in it, for named prepared statements.
import { readFileSync } from 'node:fs';

export function readStatements(file) {
  const [, ...parts] = readFileSync(new URL(file, import.meta.url), 'utf8').split(/^-- name: (\w+)$/m);
  const statements = {};
  for (let n = 0; n < parts.length; n += 2) {
    statements[parts[n]] = { name: parts[n], text: parts[n + 1].trim() };
  }
  return statements;
}
