// Node preload for a RexxJS checkout: `node -r exit_value.cjs core/src/cli.js script`.
//
// RexxJS ends with status 0 after `EXIT 3`. This writes the value its interpreter had at the end
// of the program, as {"value": 3}, to the file named by REXXINFRA_EXIT_VALUE: for EXIT the number
// RexxJS made of it, for RETURN the value itself. No file is written when the program ran off its
// end, failed, or is run by something whose shape is not known here. Output and status stay as they are;
// only a JavaScript stack trace, which RexxJS prints with --verbose, may have one line of this file.
'use strict';

const fs = require('fs');
const Module = require('module');
const path = require('path');

const target = process.env.REXXINFRA_EXIT_VALUE;
delete process.env.REXXINFRA_EXIT_VALUE;

if (target && process.argv[1] && process.env.REXXJS_TEST_RUNNER !== 'true') {
  try {
    const program = fs.realpathSync(process.argv[1]);
    watch(path.join(path.dirname(program), 'interpreter.js'));
  } catch {
    // no such program: node itself says so
  }
}

function watch(file) {
  onModule(file, (exports) => {
    const known = exports && exports.RexxInterpreter && exports.RexxInterpreter.prototype;
    if (known) observe(known);
  });
}

// Calls back with what the module of a file exports, when it is loaded.
// A hook in Module._load would be a line in every stack trace, which scripts and `--verbose` show.
// So wait on the module's place in node's cache instead, and on its `module.exports = …`.
function onModule(file, callback) {
  onAssignment(Module._cache, file, undefined, (module) => {
    onAssignment(module, 'exports', module.exports, callback);
  });
}

module.exports = { onModule };

// Calls back on the first assignment to object[key], which is an ordinary property from then on.
function onAssignment(object, key, initial, callback) {
  Object.defineProperty(object, key, {
    configurable: true,
    enumerable: initial !== undefined,
    get: () => initial,
    set(value) {
      Object.defineProperty(object, key, { value, configurable: true, enumerable: true, writable: true });
      try {
        callback(value);
      } catch {
        // not the shape we know
      }
    },
  });
}

// Only the outermost run is the program; IF, DO and INTERPRET call run again, on the original.
function observe(prototype) {
  const original = Object.getOwnPropertyDescriptor(prototype, 'run');
  if (!original || typeof original.value !== 'function') return;
  const run = function run() {
    Object.defineProperty(prototype, 'run', original);
    const ended = original.value.apply(this, arguments);
    return ended instanceof Promise ? ended.then(note) : ended;
  };
  Object.defineProperty(prototype, 'run', { ...original, value: run });
}

function note(result) {
  try {
    const text = describe(result);
    if (text !== undefined) fs.writeFileSync(target, text);
  } catch {
    // nothing is known then
  }
  return result;
}

function describe(result) {
  let end = result;
  // the handler of SIGNAL ON ERROR ended the program: its result is inside
  while (end && end.jump && end.result) end = end.result;
  if (!end || end.terminated !== true || end.error) return undefined;
  const value = end.type === 'RETURN' ? end.value : end.exitCode;
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && !Number.isFinite(value)) return undefined;
  return JSON.stringify({ value });
}
