"""What RabbitMQ says when it refuses something, in words with the remedy.

May touch: the texts that RabbitMQ 3.10.8 and 4.0.5 sent.
Must never: ask a broker.
"""

from __future__ import annotations

import shlex

import pytest

from scraperd.broker.rabbitmq.wire.errors import ACCESS_REFUSED, NOT_FOUND, channel_closed
from scraperd.broker.rabbitmq.wire.refusals import is_about_topic, no_access, no_publish

# Of a user `u` without the permission; first as RabbitMQ 3.10.8 says it, then 4.0.5.
EXCHANGE = [
    "ACCESS_REFUSED - access to exchange 'p.results' in vhost '/' refused for user 'u'",
    "ACCESS_REFUSED - write access to exchange 'p.results' in vhost '/' refused for user 'u'",
]
_WHERE = "in exchange 'p.results' in vhost '/' refused for user 'u'"
TOPIC = [
    f"ACCESS_REFUSED - access to topic 'ok.200.x' {_WHERE}",
    f"ACCESS_REFUSED - write access to topic 'ok.200.x' {_WHERE}",
]


def words(text: str, code: int = ACCESS_REFUSED, *, passive: bool = False) -> tuple[str, str]:
    error = channel_closed(text, code)
    return no_publish(error, "p.results", "ok.200.x", "p", passive=passive)


@pytest.mark.parametrize("text", EXCHANGE)
@pytest.mark.parametrize("passive", [False, True])
def test_a_forbidden_exchange_has_its_remedy(text: str, *, passive: bool) -> None:
    """The user, what is missing, and the command that gives the permissions of the documents."""
    problem, said = words(text, passive=passive)
    assert problem == "forbidden"
    assert "the user 'u' lacks write on the exchange 'p.results' in the vhost '/'" in said
    configure = "'^$'" if passive else r"'^p\.'"
    assert rf"rabbitmqctl set_permissions -p / u {configure} '^p\.|^amq\.default$' '^p\.' " in said
    assert text in said


@pytest.mark.parametrize("text", TOPIC)
def test_a_forbidden_topic_is_told_from_an_exchange(text: str) -> None:
    """Topic permissions are others, and set by another command."""
    assert is_about_topic(channel_closed(text, ACCESS_REFUSED))
    problem, said = words(text)
    assert problem == "forbidden"
    assert "lacks write on the topic 'ok.200.x' of the exchange 'p.results'" in said
    assert "rabbitmqctl set_topic_permissions -p / u p.results '.*' '.*'" in said


def test_who_may_not_reply_to_topics_gets_that_permission_too() -> None:
    """The command has the exchange of MQTT and STOMP clients beside what all daemons need."""
    text = "ACCESS_REFUSED - access to exchange 'amq.topic' in vhost '/' refused for user 'u'"
    error = channel_closed(text, ACCESS_REFUSED)
    _, said = no_publish(error, "amq.topic", "p.reply.x", "p", passive=False)
    assert r"'^p\.|^amq\.default$|^amq\.topic$' '^p\.' " in said


def test_names_of_a_topic_do_not_make_one() -> None:
    """An exchange, a vhost or a user that is named like a topic is none."""
    text = "ACCESS_REFUSED - access to exchange 'access to topic ' in vhost 'a topic '' refused"
    assert not is_about_topic(channel_closed(text, ACCESS_REFUSED))


def test_a_missing_exchange_is_named() -> None:
    """With passive_declare someone else must create it; else the daemon does."""
    text = "NOT_FOUND - no exchange 'p.results' in vhost '/'"
    problem, said = words(text, NOT_FOUND)
    assert (problem, "declared again" in said) == ("no exchange", True)
    _, said = words(text, NOT_FOUND, passive=True)
    assert "'p.results' does not exist. Create it" in said


def test_odd_names_stay_one_argument_and_one_line() -> None:
    """A vhost and a user may hold quotes, spaces and escapes of a terminal."""
    vhost, user = "a 'b", "x; rm\x1b[2J\n"
    text = (
        f"ACCESS_REFUSED - access to queue 'q' in vhost '{vhost}' refused for user '{user}'"
    ).replace("\n", "\\n")
    said = no_access(channel_closed(text, ACCESS_REFUSED), "read on 'q'", "p", passive=False)
    assert "\x1b" not in said
    command = said[said.index("rabbitmqctl") : said.index(" (the broker")]
    assert shlex.split(command)[:4] == ["rabbitmqctl", "set_permissions", "-p", vhost]
    assert len(shlex.split(command)) == 8


def test_words_that_nobody_knows_are_passed_on() -> None:
    """A later version may say it in another way: the command then has placeholders."""
    _, said = words("ACCESS_REFUSED - no.")
    assert "set_permissions -p VHOST USER" in said
    assert "ACCESS_REFUSED - no." in said
