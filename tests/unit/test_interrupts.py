"""Signals that end a run. Each script is a process of its own, which sends itself the signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import os, signal, sys, threading
from pytest_rexxinfra.interrupts import Interrupts, Terminated, postponed

def say(text):
    os.write(1, f"{text}\\n".encode())

# Whoever started the tests may ignore some of them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""

Outcome = tuple[list[str], int]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def play(script: str, number: signal.Signals = signal.SIGTERM) -> Outcome:
    """Run a script in which ``N`` is the signal; returns the lines that it said and its status."""
    text = f"{BEGIN}N = {int(number)}\n{textwrap.dedent(script)}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert "Error" not in done.stderr, done.stderr
    return done.stdout.splitlines(), done.returncode


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_taken_like_ctrl_c(number: signal.Signals) -> None:
    said = play(
        """
        with Interrupts(lambda: say("second"), lambda: say("first")).handled():
            try:
                signal.raise_signal(N)
                say("went on")
            except KeyboardInterrupt as interrupt:
                say(f"{type(interrupt).__name__} {interrupt}".strip())
        say(signal.getsignal(N) in (signal.SIG_DFL, signal.default_int_handler))
        say(Interrupts.active())
        """,
        number,
    )
    raised = "KeyboardInterrupt" if number is signal.SIGINT else f"Terminated {number.name}"
    assert said == (["first", raised, "True", "None"], 0)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_leaves_at_once(number: signal.Signals) -> None:
    said = play(
        """
        with Interrupts(lambda: say("second")).handled():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Terminated:
                try:
                    signal.raise_signal(N)
                finally:
                    say("took something down")
        """,
        number,
    )
    assert said == (["second"], 128 + number)


def test_the_second_leaves_even_when_nothing_can_be_said() -> None:
    said = play(
        """
        def fail():
            raise OSError("no terminal any more")
        interrupts = Interrupts(fail)
        interrupts.install()
        try:
            signal.raise_signal(N)
        except Terminated:
            signal.raise_signal(N)
        say("went on")
        """
    )
    assert said == ([], 128 + signal.SIGTERM)


def test_the_second_is_ignored_where_nothing_is_to_be_called() -> None:
    said = play(
        """
        with Interrupts(None).handled():
            try:
                signal.raise_signal(N)
            except Terminated:
                signal.raise_signal(N)
                signal.raise_signal(signal.SIGINT)
                say("took everything down")
        """
    )
    assert said == (["took everything down"], 0)


def test_a_run_that_has_gone_on_can_be_interrupted_again() -> None:
    said = play(
        """
        interrupts = Interrupts(lambda: say("second"))
        with interrupts.handled():
            for _ in range(2):
                try:
                    signal.raise_signal(N)
                except Terminated:
                    say("raised")
                interrupts.forget()
        """
    )
    assert said == (["raised", "raised"], 0)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (signal.SIGTERM, (["asked"], -signal.SIGTERM)),
        (signal.SIGHUP, (["asked"], -signal.SIGHUP)),
        (signal.SIGINT, (["asked", "KeyboardInterrupt"], 0)),
    ],
)
def test_nothing_to_take_down_leaves_all_as_it_was(number: signal.Signals, outcome: Outcome) -> None:
    said = play(
        """
        interrupts = Interrupts(lambda: say("second"), lambda: say("first"), lambda: say("asked"))
        interrupts.install()
        try:
            signal.raise_signal(N)
        except KeyboardInterrupt as interrupt:
            say(type(interrupt).__name__)
        """,
        number,
    )
    assert said == outcome


def test_what_is_ignored_or_taken_is_left_alone() -> None:
    said = play(
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: say("theirs"))
        with Interrupts(lambda: say("second")).handled():
            with postponed():
                signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        say(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
        """
    )
    assert said == (["theirs", "theirs", "True"], 0)


def test_restored_twice_and_installed_again() -> None:
    said = play(
        """
        before = signal.getsignal(N)
        interrupts = Interrupts(lambda: say("second"))
        for _ in range(2):
            interrupts.install()
            say(Interrupts.active() is interrupts and signal.getsignal(N) != before)
            interrupts.restore()
            interrupts.restore()
            say(Interrupts.active() is None and signal.getsignal(N) == before)
        """
    )
    assert said == (["True"] * 4, 0)


@pytest.mark.parametrize("number", SIGNALS)
def test_postponed_until_the_block_is_over(number: signal.Signals) -> None:
    said = play(
        """
        with Interrupts(lambda: say("second"), lambda: say("first")).handled():
            try:
                with postponed():
                    with postponed():
                        signal.raise_signal(N)
                        say("made")
                    say("written down")
                say("went on")
            except KeyboardInterrupt:
                say("raised")
        """,
        number,
    )
    assert said == (["made", "written down", "first", "raised"], 0)


def test_postponed_without_anybody_who_handles_it() -> None:
    said = play(
        """
        with postponed():
            signal.raise_signal(N)
            say("made")
        say("went on")
        """
    )
    assert said == (["made"], -signal.SIGTERM)


def test_postponed_although_the_block_fails() -> None:
    said = play(
        """
        with Interrupts(lambda: say("second")).handled():
            try:
                with postponed():
                    signal.raise_signal(N)
                    raise ValueError
            except Terminated as interrupt:
                say(type(interrupt.__context__).__name__)
        """
    )
    assert said == (["ValueError"], 0)


def test_a_second_one_does_not_wait() -> None:
    said = play(
        """
        with Interrupts(lambda: say("second")).handled():
            with postponed():
                signal.raise_signal(signal.SIGTERM)
                say("making")
                signal.raise_signal(signal.SIGINT)
                say("made")
        """
    )
    assert said == (["making", "second"], 128 + signal.SIGINT)


def test_a_second_one_during_what_follows_the_first_does_not_wait() -> None:
    said = play(
        """
        with Interrupts(lambda: say("second")).handled():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Terminated:
                with postponed():
                    signal.raise_signal(N)
                    say("taken down")
        """
    )
    assert said == (["second"], 128 + signal.SIGTERM)


def test_other_threads_handle_nothing() -> None:
    said = play(
        """
        def work():
            interrupts = Interrupts(lambda: say("second"))
            interrupts.install()
            with postponed():
                say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
            say(Interrupts.active())
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """
    )
    assert said == (["True", "None"], 0)


def test_a_wait_gives_way_once_and_the_signal_follows() -> None:
    said = play(
        """
        from pytest_rexxinfra.deadline import Deadline
        def never():
            signal.raise_signal(N)
        with Interrupts(lambda: say("second")).handled():
            try:
                with postponed():
                    try:
                        Deadline(20).wait_for(never, "what never comes")
                    finally:
                        Deadline(20).wait_for(lambda: True, "the removal of what was made")
                        say("removed")
            except KeyboardInterrupt as interrupt:
                say(type(interrupt).__name__)
        """
    )
    assert said == (["removed", "Terminated"], 0)


def test_waits_go_on_where_no_signal_is_put_off() -> None:
    said = play(
        """
        from pytest_rexxinfra.deadline import Deadline
        with postponed():
            pass
        rounds = iter(range(3))
        say(Deadline(20).wait_for(lambda: next(rounds) == 2, "the third round"))
        """
    )
    assert said == (["True"], 0)


def test_a_program_that_is_waited_for_ends_where_it_gives_way() -> None:
    said = play(
        """
        from pytest_rexxinfra.deadline import Deadline
        from pytest_rexxinfra.tools import run_tool
        program = ["sh", "-c", f"trap 'echo ended >&2; exit 1' TERM; kill -{N} {os.getpid()}; sleep 77 & wait"]
        with Interrupts(lambda: say("second")).handled():
            try:
                with postponed():
                    run_tool(["sh", "-c", "exit 0"], deadline=Deadline(20), where="test", giving_way=True)
                    run_tool(program, deadline=Deadline(20), where="test", giving_way=True)
                    say("went on")
            except KeyboardInterrupt as interrupt:
                say(type(interrupt).__name__)
        """
    )
    assert said == (["Terminated"], 0)


def test_a_script_in_a_machine_that_is_waited_for_gives_way() -> None:
    said = play(
        """
        from pytest_rexxinfra.channels.request import await_answer
        from pytest_rexxinfra.deadline import Deadline
        class Machine:
            def answer(self, job, deadline):
                signal.raise_signal(N)
        with Interrupts(lambda: say("second")).handled():
            try:
                with postponed():
                    await_answer(Machine(), "job", Deadline(20), "what never ends")
                    say("went on")
            except KeyboardInterrupt as interrupt:
                say(type(interrupt).__name__)
        """
    )
    assert said == (["Terminated"], 0)


def test_a_program_that_does_not_give_way_is_waited_for() -> None:
    said = play(
        """
        from pytest_rexxinfra.deadline import Deadline
        from pytest_rexxinfra.tools import run_tool
        with Interrupts(lambda: say("second")).handled():
            try:
                with postponed():
                    run_tool(["sh", "-c", f"kill -{N} {os.getpid()}; sleep 0.3"], deadline=Deadline(20), where="test")
                    say("went on")
            except KeyboardInterrupt as interrupt:
                say(type(interrupt).__name__)
        """
    )
    assert said == (["went on", "Terminated"], 0)
