"""The defences of upgrades and moves of the state, in ``docs/reliability.md``, and the test that fails without each."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

CREATION = "ocm_wsgi/storage/creation.py"
UPGRADES = "storage/test_upgrades.py"

STATE_MUTATIONS = (
    Mutation(
        f"{UPGRADES}::test_upgrade_under_load[sqlite-1]",
        Edit("ocm_wsgi/storage/revisions/schema_2.py", 'nullable=False, server_default="0"))', "nullable=False))"),
    ),
    Mutation(
        f"{UPGRADES}::test_upgrade_gives_way",
        Edit(CREATION, 'f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MILLISECONDS}"', '"SET LOCAL lock_timeout = 0"'),
        (Edit("tests/storage/test_upgrades.py", 'TURN_TIMEOUT = "60s"', 'TURN_TIMEOUT = "5s"'),),
    ),
    Mutation(
        f"{UPGRADES}::test_failed_upgrade[sqlite]",
        Edit(
            "ocm_wsgi/storage/upgrades.py",
            "            script.module.upgrade()\n",
            "            script.module.upgrade()\n"
            '            connection.connection.cursor().execute("COMMIT")\n'
            '            connection.connection.cursor().execute("BEGIN")\n',
        ),
    ),
    Mutation(
        "storage/test_database.py::test_database_newer_schema", Edit(CREATION, "version > SCHEMA_VERSION", "False")
    ),
)
