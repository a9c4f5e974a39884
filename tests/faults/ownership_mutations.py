"""Defences of stored objects in ``docs/security.md``, and the test that fails without each of them."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

ACCESS = "ocm_wsgi/ownership/access.py"
OPEN_ANSWER = "ocm_wsgi/ownership/open_answer.py"
REFERENCES = "ocm_wsgi/protocol/responses/references.py"
NAMED = "ownership/test_named_in_bodies.py"

OWNERSHIP_MUTATIONS = (
    Mutation(
        "ownership/test_access.py::test_only_the_creator_and_admins_reach_an_object[files]",
        Edit(ACCESS, "not sees_all and (owner is None or owner.user != user)", "False"),
    ),
    Mutation(
        "ownership/test_access.py::test_objects_without_an_owner_are_for_admins",
        Edit(ACCESS, "(owner is None or owner.user != user)", "owner is not None and owner.user != user"),
    ),
    Mutation(
        "ownership/test_access.py::test_lists_contain_ones_own_only[files]",
        Edit(ACCESS, "lists=None if sees_all else endpoint.lists", "lists=None"),
    ),
    Mutation(
        f"{NAMED}::test_only_ones_own_objects_can_be_named[input of a batch]",
        Edit(ACCESS, "require_references(owners, access.user, facts.references)", "pass"),
    ),
    Mutation(
        f"{NAMED}::test_a_body_that_cannot_be_read_is_refused[utf-16]",
        Edit(ACCESS, "if facts.unread and access.requires_body:", "if False:"),
    ),
    Mutation(
        "ownership/test_websocket.py::test_a_response_that_is_not_stored_is_its_websockets[chatgpt]",
        Edit("ocm_wsgi/relay/websocket_objects.py", "if self._sees_all(user):", "if True:"),
    ),
    Mutation(
        "ownership/test_websocket.py::test_a_stored_response_has_an_owner_when_it_is_created[None]",
        Edit("ocm_wsgi/relay/tunnel.py", "partial(self._turns.begin, item)", "lambda _: False"),
    ),
    Mutation(
        "ownership/test_background.py::test_the_end_settles_the_turn[its user-get]",
        Edit("ocm_wsgi/accounting/settled_turns.py", "if connection.execute(update).rowcount:", "if True:"),
    ),
    Mutation(
        "ownership/test_background.py::test_the_end_settles_the_turn[an admin-stream]",
        Edit(OPEN_ANSWER, "self.is_due = is_final(outcome, self._response_id)", "pass"),
    ),
    Mutation(
        "background/test_fetcher.py::test_a_response_that_nobody_fetches_is_settled",
        Edit("ocm_wsgi/background/fetcher.py", "for pending in self._due():", "for pending in ():"),
    ),
    Mutation(
        "background/test_fetcher.py::test_a_response_is_settled_before_it_is_deleted",
        Edit("ocm_wsgi/views/proxy.py", "service.background.fetch_before_deletion(access)", "pass"),
    ),
    Mutation(
        "protocol/responses/test_references.py::test_references[item of an unknown type]",
        Edit(REFERENCES, "return isinstance(type_, str) and bool(", "return True or bool("),
    ),
    Mutation(
        "ownership/test_owners.py::test_an_object_keeps_its_owner",
        Edit(
            "ocm_wsgi/ownership/owners.py",
            '.on_conflict_do_nothing(index_elements=["id"])',
            '.on_conflict_do_update(index_elements=["id"], set_={"user": "bob"})',
        ),
    ),
    Mutation(
        "ownership/test_open_answer.py::test_a_stream_names_its_objects_after_they_are_claimed",
        Edit(OPEN_ANSWER, "        self._held += passing\n", "        return passing\n"),
    ),
    Mutation(
        "ownership/test_open_answer.py::test_what_an_answer_names",
        Edit("ocm_wsgi/protocol/objects/answers.py", 'document.get("store") is False)', "False)"),
    ),
)
