"""The defences of the start, in ``docs/reliability.md``, and the test that fails without each."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

STARTUP = "ocm_wsgi/server/startup.py"
STATE_FOLDER = "ocm_wsgi/storage/state_folder.py"
TESTS = "server/test_startup.py"

START_MUTATIONS = (
    Mutation(
        f"{TESTS}::test_second_instance_on_one_state",
        Edit("ocm_wsgi/server/instance.py", "fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX", "fcntl.LOCK_SH"),
    ),
    Mutation(
        f"{TESTS}::test_command_of_another_user",
        Edit("ocm_wsgi/cli/state.py", "    require_own(config.state_path)\n", ""),
    ),
    Mutation(
        f"{TESTS}::test_state_that_cannot_be_used",
        Edit(STATE_FOLDER, "    require_own(folder)\n", ""),
    ),
    Mutation(f"{TESTS}::test_state_on_a_full_disk", Edit(STATE_FOLDER, ".free < _LEAST_FREE_BYTES", ".free < 0")),
    Mutation(
        f"{TESTS}::test_unix_socket_in_use",
        Edit(STARTUP, "isinstance(address, str) and _is_served(address)", "False"),
    ),
    Mutation(
        f"{TESTS}::test_invalid_worker_count",
        Edit(STARTUP, " or int(given) < 1", ""),
    ),
    Mutation(
        "cli/test_interrupts.py::test_interrupted_before_it_begins",
        Edit("ocm_wsgi/__main__.py", "signal.signal(signal.SIGINT, signal.SIG_DFL)", "pass"),
    ),
)
