// Node preload for RexxJS's test runner: `node -r exit_value.cjs -r routines.cjs core/src/cli.js tests.rexx`.
//
// The runner tells how each file ended, not each of its routines. This prints a line of its own to standard
// output when a routine whose name ends in "Test" is called and when it is left:
//   \x01rexxinfra {"event": "start", "routine": "SUMTEST"}
//   \x01rexxinfra {"event": "end", "routine": "SUMTEST", "ms": 12, "error": "…", "line": 7}
// `line` is the line of the script at which the error came up. The first line, {"event": "watching"}, says
// that routines are seen at all; without it the interpreter has a shape that is not known here.
'use strict';

const fs = require('fs');
const path = require('path');
const { onModule } = require('./exit_value.cjs');

if (process.argv[1] && process.env.REXXJS_TEST_RUNNER === 'true') {
  try {
    const home = path.dirname(fs.realpathSync(process.argv[1]));
    let line;
    onModule(path.join(home, 'interpreter-error-handling.js'), (exports) => {
      const original = exports.handleError;
      if (typeof original !== 'function') return;
      // It is asked about every error, the innermost place first, while the line is still known.
      exports.handleError = function handleError(error, index, handlers, commands, variables, interpreter) {
        if (line === undefined && interpreter) line = interpreter.currentLineNumber;
        return original.apply(this, arguments);
      };
    });
    onModule(path.join(home, 'interpreter-parse-subroutine.js'), (exports) => {
      const original = exports.executeCall;
      if (typeof original !== 'function') return;
      exports.executeCall = function executeCall(command, variables) {
        const { subroutine, isVariableCall } = command || {};
        const named = isVariableCall && variables instanceof Map ? variables.get(subroutine) : subroutine;
        const routine = String(named);
        if (!/^\w*test$/i.test(routine)) return original.apply(this, arguments);
        const started = Date.now();
        line = undefined;
        say({ event: 'start', routine });
        const end = (more) => say({ event: 'end', routine, ms: Date.now() - started, ...more });
        const called = original.apply(this, arguments);
        if (!(called instanceof Promise)) {
          end({});
          return called;
        }
        return called.then(
          (result) => {
            end({});
            return result;
          },
          (error) => {
            end({ error: String((error && error.message) || error), line });
            throw error;
          },
        );
      };
      say({ event: 'watching' });
    });
  } catch {
    // no such program, or not the shape we know
  }
}

function say(event) {
  process.stdout.write(`\x01rexxinfra ${JSON.stringify(event)}\n`);
}
