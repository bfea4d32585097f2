"""What the fault suite expects of ExternalSecrets."""

import json

from tests.faults.model import (
    GENERATE,
    SEED,
    Item,
    Model,
    Spot,
    asks,
    expected,
    folders,
    gathered,
    good_values,
    missing,
    references,
)

MOUNTS = {"vault": "secret", "old": "kv1"}


def item(*entries: tuple[str, str], store: str = "vault", whole: str = "", **annotations: str) -> Item:
    data = [{"secretKey": f"k-{wanted}", "remoteRef": {"key": path, "property": wanted}} for path, wanted in entries]
    spec = {"secretStoreRef": {"name": store}, "data": data, "dataFrom": [{"extract": {"key": whole}}] if whole else []}
    return {"metadata": {"namespace": "n", "name": "es", "annotations": annotations}, "spec": spec}


def test_who_asks() -> None:
    assert asks(item(**{SEED: "true"}), seeds=False)
    assert asks(item(), seeds=True)
    assert not asks(item(), seeds=False)
    assert not asks(item(**{SEED: "false"}), seeds=True)
    assert not asks(item(**{SEED: "yes"}), seeds=True)


def test_what_is_missing_is_what_is_allowed_and_not_there() -> None:
    asking = item(("n/a", "p"), ("n/a", "q"), ("n/b", "p"), ("m/c", "p"), ("n/denied/d", "p"))
    found = references(asking, MOUNTS)
    assert list(missing(asking, found, {Spot("secret", "n/a"): {"q": "x"}})) == [
        "n/es: secret/n/a lacks p in Vault",
        "n/es: secret/n/b lacks p in Vault",
    ]


def test_of_a_whole_path_the_rules_name_what_is_missing() -> None:
    asking = item(whole="n/w", **{GENERATE: json.dumps({"user": {}, "password": {}})})
    found = references(asking, MOUNTS)
    assert list(missing(asking, found, {})) == ["n/es: secret/n/w lacks password, user in Vault"]


def test_in_kv_v1_only_a_missing_path_is() -> None:
    asking = item(("n/a", "p"), store="old")
    found = references(asking, MOUNTS)
    assert list(missing(asking, found, {})) == ["n/es: kv1/n/a lacks p in Vault"]
    assert list(missing(asking, found, {Spot("kv1", "n/a"): {"q": "x"}})) == []


def test_the_secret_has_everything_or_is_left_alone() -> None:
    found = references(item(("n/a", "p"), whole="n/w"), MOUNTS)
    there = {Spot("secret", "n/a"): {"p": "1", "q": "2"}, Spot("secret", "n/w"): {"x": "3"}}
    assert expected(found, there) == {"k-p": "1", "x": "3"}
    assert expected(found, there | {Spot("secret", "n/a"): {"q": "2"}}) is None
    assert expected(found, there | {Spot("secret", "n/w"): None}) is None
    assert expected([], there) is None


def test_of_a_folder_everything_that_lives_is_there_as_json() -> None:
    spec = {"secretStoreRef": {"name": "vault"}, "dataFrom": [{"find": {"path": "n", "name": {"regexp": ".*"}}}]}
    finding = {"metadata": {"namespace": "n", "name": "es"}, "spec": spec}
    taken = folders(finding, MOUNTS)
    assert references(finding, MOUNTS) == []
    there = {Spot("secret", path): {"q": "2", "p": "1"} for path in ("n/a", "n/b/c", "m/a", "nn/a")}
    assert gathered(taken, there | {Spot("secret", "n/d"): None, Spot("kv1", "n/e"): {"p": "1"}}) == {
        "n_a": '{"p":"1","q":"2"}',
        "n_b_c": '{"p":"1","q":"2"}',
    }
    assert gathered(taken, {Spot("secret", "n/d"): None}) is None
    assert folders(finding, {}) == []


def test_the_good_values_of_a_secret_are_those_that_it_was_made_of() -> None:
    found = references(item(("n/a", "p"), ("n/a", "q"), ("n/b", "r"), whole="n/w"), MOUNTS)
    assert good_values(found, {"k-p": "1", "k-q": "2", "x": "3"}) == {
        Spot("secret", "n/a"): {"p": "1", "q": "2"},
        Spot("secret", "n/w"): {"x": "3"},
    }


def test_without_its_store_nothing_is_read() -> None:
    assert references(item(("n/a", "p"), store="gone"), MOUNTS) == []


def test_what_may_ever_be_made_is_what_was_asked_for_where_it_is_allowed() -> None:
    model = Model()
    for sent in (
        item(("n/a", "p"), ("m/a", "p"), **{SEED: "true"}),
        item(("n/a", "q"), ("n/b", "p")),
        item(("n/a", "r"), **{SEED: "false"}),
    ):
        model.sent(sent, references(sent, MOUNTS), seeds=False)
    assert model.permitted == {Spot("secret", "n/a"): {"p"}}
    assert model.named == {Spot("secret", "n/a"), Spot("secret", "n/b"), Spot("secret", "m/a")}
    assert model.may_be_written() == {Spot("secret", "n/a"): {"p", "q"}}  # who does not ask is not left out
