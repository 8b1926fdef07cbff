"""What a policy says about how much providers can take; its mistakes are in `golden/capacity.yaml`."""

from __future__ import annotations

from gateway.policy.loading import load_text
from gateway.policy.models import Policy
from gateway.policy.schema import json_schema
from gateway.policy.sections.providers import Provider, Queue
from gateway.upstreams.capacity import Limits


def policy(text: str) -> Policy:
    return load_text(f"version: 1\n{text}", {})


def test_a_provider_has_no_limit_and_a_queue_that_would_do_unless_the_policy_says_so() -> None:
    provider = policy("providers: {p: {dialect: openai, base_url: http://p/v1}}").providers["p"]
    assert provider.max_concurrency is None
    assert provider.queue == Queue(size=100, wait_s=10.0)


def test_a_policy_names_slots_and_queue_of_a_provider() -> None:
    provider = policy(
        "providers: {p: {dialect: openai, base_url: http://p/v1, max_concurrency: 20, queue: {size: 0, wait_s: 0.5}}}"
    ).providers["p"]
    assert provider.max_concurrency == 20
    assert provider.queue == Queue(size=0, wait_s=0.5)


def test_a_part_of_the_queue_keeps_the_other_defaults() -> None:
    provider = policy("providers: {p: {dialect: openai, base_url: http://p/v1, queue: {size: 3}}}").providers[
        "p"
    ]
    assert (provider.queue.size, provider.queue.wait_s) == (3, 10.0)


def test_a_key_has_a_priority() -> None:
    keys = policy(
        "keys: [{name: a, key: gw-a}, {name: b, key: gw-b, priority: low}, {name: c, key: gw-c, priority: high}]"
    ).keys
    assert [key.priority for key in keys] == ["normal", "low", "high"]


def test_a_provider_of_a_policy_is_what_the_queue_takes_its_limits_from() -> None:
    provider: Limits = Provider(dialect="openai", base_url="http://p/v1")
    assert provider.queue.size == 100


def test_the_schema_knows_them() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["Queue"]["properties"]["size"]["default"] == 100
    assert definitions["Queue"]["properties"]["wait_s"]["default"] == 10.0
    assert definitions["Key"]["properties"]["priority"]["enum"] == ["low", "normal", "high"]
    assert definitions["Provider"]["properties"]["max_concurrency"]["default"] is None
