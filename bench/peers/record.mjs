// A file that lines are added to, each with a system call of its own: as orderflow.sandbox.recording.
import { openSync, writeSync } from 'node:fs';

export function openRecord(file) {
  const descriptor = openSync(file, 'a');
  return line => writeSync(descriptor, `${line}\n`);
}
