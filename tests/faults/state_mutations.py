"""The defences of upgrades and moves of the state, in ``docs/reliability.md``, and the test that fails without each."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

BACKUP = "ocm_wsgi/transfer/backup.py"
BACKUPS = "transfer/test_backup.py"
BACKUP_FILE = "ocm_wsgi/transfer/backup_file.py"
CREATION = "ocm_wsgi/storage/creation.py"
EXPORTS = "transfer/test_exports.py"
RESTORATION = "ocm_wsgi/transfer/restoration.py"
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
            "                script.module.upgrade()\n",
            "                script.module.upgrade()\n"
            '                connection.connection.cursor().execute("COMMIT")\n'
            '                connection.connection.cursor().execute("BEGIN")\n',
        ),
    ),
    Mutation(
        "storage/test_database.py::test_database_newer_schema", Edit(CREATION, "version > SCHEMA_VERSION", "False")
    ),
    Mutation(
        f"{BACKUPS}::test_restoration_killed_at_each_step[sqlite]",
        Edit(
            RESTORATION,
            "        target.execute(table.delete())\n",
            "        target.execute(table.delete())\n"
            '        target.connection.cursor().execute("COMMIT")\n'
            '        target.connection.cursor().execute("BEGIN IMMEDIATE")\n',
        ),
    ),
    Mutation(
        f"{BACKUPS}::test_backup_killed_at_each_step",
        Edit(BACKUP_FILE, 'path.with_name(f"{path.name}.partial")', "path"),
    ),
    Mutation(
        f"{BACKUPS}::test_consistent_under_load[sqlite]",
        Edit("ocm_wsgi/storage/engines.py", 'if writes else "BEGIN"', 'if writes else "SELECT 1"'),
    ),
    Mutation(
        f"{BACKUPS}::test_waiting_records",
        Edit(BACKUP, 'waiting_records(state_path / "spool")', "[]"),
    ),
    Mutation(
        f"{BACKUPS}::test_damaged_backup",
        Edit(RESTORATION, "            if found != checksum:", "            if found is None:"),
    ),
    Mutation(
        f"{BACKUPS}::test_filled_in_the_meantime[sqlite]",
        Edit(RESTORATION, "        _require_empty(target)", "        pass"),
    ),
    Mutation(
        f"{BACKUPS}::test_disk_full",
        Edit(
            BACKUP_FILE,
            '        raise TransferFailed(f"{path} cannot be written. Nothing was changed."',
            '        return\n        raise TransferFailed(f"{path} cannot be written. Nothing was changed."',
        ),
    ),
    Mutation(
        f"{EXPORTS}::test_import_killed[sqlite]",
        Edit(
            "ocm_wsgi/transfer/imports.py",
            "            queries.store_records(cursor, weeks.aligned(cursor, turns))\n",
            "            queries.store_records(cursor, weeks.aligned(cursor, turns))\n"
            '            cursor.cursor.execute("COMMIT")\n'
            '            cursor.cursor.execute("BEGIN IMMEDIATE")\n',
        ),
    ),
    Mutation(
        f"{EXPORTS}::test_turns_that_may_be_counted",
        Edit("ocm_wsgi/transfer/imports.py", '(each["user"], _hour_of(each)) not in counted', "True"),
    ),
)
