"""What the action of this name does; it runs on the controller, so there is no code here."""

from __future__ import annotations

DOCUMENTATION = """
module: rexxjs
author: pytest-rexxinfra
short_description: Run REXX on a host
description:
  - Runs a REXX script on a host. The host needs no Python.
  - In a run of pytest-rexxinfra the script runs with the build under test, which is brought into the machine.
    Elsewhere, or with O(interpreter), it runs with an interpreter that the host has.
options:
  source:
    description: Text of the script.
    type: str
  script:
    description: File of the script on the controller, looked for like those of M(ansible.builtin.script).
    type: path
  args:
    description: Arguments of the script.
    type: list
    elements: str
    default: []
  env:
    description: Variables of its environment. No process has them in its arguments, and a run's transcript hides them.
    type: dict
    default: {}
  chdir:
    description: Directory of the host to run it in.
    type: path
  creates:
    description: A path on the host; if it is there, the script is not run.
    type: path
  timeout:
    description: Seconds after which the script is killed. Without a run, this needs C(timeout) of coreutils or busybox.
    type: float
  interpreter:
    description: Command on the host that runs a script given as its first argument; C(rexx) where there is no run.
    type: str
attributes:
  check_mode:
    description: Is skipped.
    support: none
"""

EXAMPLES = """
- name: Say hello
  rexxinfra.rexxjs.rexxjs:
    source: |
      PARSE ARG who
      SAY 'hello' who
    args: [world]
  register: said
  changed_when: false

- name: Set the database up, once
  rexxinfra.rexxjs.rexxjs:
    script: setup.rexx
    env:
      PASSWORD: "{{ vaulted_password }}"
    creates: /srv/db/ready
"""

RETURN = """
rc:
  description: Exit status of the interpreter.
  returned: always
  type: int
exit_value:
  description: Value of the script's EXIT, where the build tells it; always null without a run.
  returned: always
  type: str
stdout:
  description: Standard output.
  returned: always
  type: str
stdout_lines:
  description: Lines of standard output.
  returned: always
  type: list
stderr:
  description: Standard error.
  returned: always
  type: str
"""
