"""Stand-ins: stable, of one session, never shared by two values, and restored to the character."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.screening import pii
from gateway.screening.pii_validators import luhn
from gateway.screening.vault import LONGEST, Vault, VaultError, VaultFull

KEY = b"0123456789abcdef"
SAMPLES = [
    ("EMAIL_ADDRESS", "anna@example.com"),
    ("PHONE_NUMBER", "+1 415 555 2671"),
    ("CREDIT_CARD", "4111-1111-1111-1111"),
    ("CREDIT_CARD", "371449635398431"),
    ("US_SSN", "536-22-1234"),
    ("PERSON", "Anna König"),
    ("STREET_ADDRESS", 'Main "A" Street 5\nBerlin \\ DE'),
]


def vault(session: str = "s") -> Vault:
    return Vault(KEY, session)


@pytest.mark.parametrize(
    ("type_", "value", "shape"),
    [
        ("EMAIL_ADDRESS", "anna@example.com", r"user-[a-z2-7]{10}@example\.invalid"),
        ("PHONE_NUMBER", "0479 50 54 03", r"\+999 \d{4} \d{4} \d{4}"),
        ("CREDIT_CARD", "4111-1111-1111-1111", r"9999-\d{4}-\d{4}-\d{4}"),
        ("CREDIT_CARD", "4111111111111111", r"9999\d{12}"),
        ("CREDIT_CARD", "371449635398431", r"<CREDIT_CARD_[a-z2-7]{10}>"),
        ("US_SSN", "536-22-1234", r"<US_SSN_[a-z2-7]{10}>"),
        ("Employee id (DE)", "x", r"<EMPLOYEE_ID_DE_[a-z2-7]{10}>"),
        ("社員", "x", r"<X_[a-z2-7]{10}>"),
    ],
)
def test_a_stand_in_has_the_shape_that_helps(type_: str, value: str, shape: str) -> None:
    made = vault().pseudonym(type_, value)
    assert re.fullmatch(shape, made)
    assert vault().pseudonym(type_, value) == made, "made from the key alone"
    assert len(made) <= LONGEST


def test_a_stand_in_can_be_nobodys() -> None:
    one = vault()
    cards = [one.pseudonym("CREDIT_CARD", str(number)) for number in range(4 * 10**15, 4 * 10**15 + 300)]
    assert not any(luhn(card) for card in cards)
    assert len(set(cards)) == 300
    assert not pii.scan(" ".join(cards))
    assert not pii.scan(one.pseudonym("PHONE_NUMBER", "+1 415 555 2671"))


def test_sessions_and_keys_do_not_share_stand_ins() -> None:
    made = {
        Vault(key, session).pseudonym("PERSON", "Anna")
        for key in (KEY, b"another key, long")
        for session in "ab"
    }
    assert len(made) == 4


def test_a_type_is_part_of_the_value() -> None:
    one = vault()
    assert one.pseudonym("PERSON", "Anna") != one.pseudonym("ORGANIZATION", "Anna")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "PERSON"]), st.text(max_size=20)
        ),
        max_size=30,
    )
)
@settings(max_examples=100)
def test_two_values_never_share_one_and_each_comes_back(values: list[tuple[str, str]]) -> None:
    one = vault()
    made = {value: one.pseudonym(*value) for value in values}
    assert len(set(made.values())) == len(made)
    for (_, value), stand_in in made.items():
        assert one.restore(f"«{stand_in}»") == f"«{value}»"


def test_a_collision_takes_the_next_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.screening import vault as module

    shaped = module._shaped
    monkeypatch.setattr(
        module, "_shaped", lambda type_, value, digest: shaped("PERSON", "", bytes([digest[0] % 3]) * 8)
    )
    one = vault()
    made = [one.pseudonym("PERSON", str(n)) for n in range(3)]
    assert len(set(made)) == 3
    assert one.restore(" ".join(made)) == "0 1 2"


def test_a_look_alike_in_the_text_is_not_taken_and_not_touched() -> None:
    would_be = vault().pseudonym("PERSON", "Anna")
    one = vault()
    text = f"<PERSON_1> and {would_be} say Anna"
    made = one.pseudonym("PERSON", "Anna", text)
    assert made != would_be
    assert one.restore(text.replace("Anna", made)) == text


# -- back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type_", "value"), SAMPLES)
def test_a_stand_in_is_restored_however_a_model_spells_it(type_: str, value: str) -> None:
    one = vault()
    made = one.pseudonym(type_, value)
    spellings = {made, made.upper(), made.lower(), made.title()}
    if made.startswith("<"):
        bare = made[1:-1]
        spellings |= {
            bare,
            f"&lt;{bare}&gt;",
            f"\\u003c{bare}\\u003e",
            f"\\u003C{bare}\\u003E",
            made.replace("_", "\\_"),
            f"<{bare}",
            f"{bare}>",
        }
    elif made[0] in "+9":
        digits = re.sub(r"\D", "", made)
        spellings |= {
            digits,
            " ".join(digits),
            re.sub(r"[ -]", ".", made),
            "-".join((digits[:4], digits[4:])),
        }
    for spelling in spellings:
        assert one.restore(f"to {spelling}, ok") == f"to {value}, ok", spelling
        assert one.restore(f'"{spelling}"') == f'"{value}"'
        assert one.restore(f"({spelling}).") == f"({value})."


def test_a_number_is_restored_with_other_numbers_behind_it() -> None:
    one = vault()
    phone, card = (
        one.pseudonym("PHONE_NUMBER", "0479 50 54 03"),
        one.pseudonym("CREDIT_CARD", "4111 1111 1111 1111"),
    )
    assert one.restore(f"{phone} 12") == "0479 50 54 03 12"
    assert one.restore(f"{card} 12") == "4111 1111 1111 1111 12"
    assert one.restore(f"{card}1") == f"{card}1"
    assert one.restore(f"1{card}") == f"1{card}"


def test_a_part_of_a_stand_in_is_left_alone() -> None:
    one = vault()
    made = one.pseudonym("PERSON", "Anna")
    assert one.restore(made[:-2]) == made[:-2]
    assert one.restore(f"x{made[1:-1]}") == f"x{made[1:-1]}"
    assert one.restore(f"{made[1:-1]}x") == f"{made[1:-1]}x"


@pytest.mark.parametrize(("type_", "value"), SAMPLES)
def test_inside_json_values_are_escaped(type_: str, value: str) -> None:
    one = vault()
    arguments = json.dumps({"to": f"Dear {one.pseudonym(type_, value)}!"})
    assert json.loads(one.restore(arguments, json=True)) == {"to": f"Dear {value}!"}


@given(st.text(max_size=200))
def test_a_text_without_stand_ins_is_returned_as_it_is(text: str) -> None:
    one = vault()
    assert one.restore(text) == text
    one.pseudonym("PERSON", "Anna")
    assert one.restore(text) == text


def test_spans_tell_where_stand_ins_are() -> None:
    one = vault()
    made = one.pseudonym("PERSON", "Anna")
    assert one.spans(f"{made} and {made}") == [(0, len(made)), (len(made) + 5, 2 * len(made) + 5)]
    assert one.known(made.upper())
    assert not one.known("<PERSON_1>")


def test_ten_turns_that_quote_stand_ins_are_restored() -> None:
    stored = b""
    history = ""
    for turn in range(10):
        one = Vault.load(KEY, "chat", stored) if stored else Vault(KEY, "chat")
        made = [one.pseudonym("PERSON", f"Person {turn}", history), one.pseudonym("PERSON", "Anna", history)]
        history += f"{turn}: {made[0]} met {made[1]}. "
        stored = one.dump()
    restored = Vault.load(KEY, "chat", stored).restore(history)
    assert restored == "".join(f"{turn}: Person {turn} met Anna. " for turn in range(10))


# -- keeping -------------------------------------------------------------------------------------------


def test_what_is_dumped_is_closed_and_comes_back() -> None:
    one = vault()
    made = [one.pseudonym(*sample) for sample in SAMPLES]
    odd = one.pseudonym("PERSON", "lone \ud800")
    before, stored, after = one.changed, one.dump(), one.changed
    assert (before, after) == (True, False)
    assert one.dump() != stored
    assert b"anna" not in stored
    assert made[0].encode() not in stored
    back = Vault.load(KEY, "s", stored)
    assert len(back) == len(SAMPLES) + 1
    assert not back.changed
    assert [back.restore(stand_in) for stand_in in made] == [value for _, value in SAMPLES]
    assert back.restore(odd) == "lone \ud800"


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        lambda b: b"\x02" + b[1:],
        lambda b: b[:20],
        lambda b: b"",
        lambda b: b[:1],
    ],
)
def test_what_was_changed_is_refused(change: object) -> None:
    assert callable(change)
    one = vault()
    one.pseudonym("PERSON", "Anna")
    with pytest.raises(VaultError):
        Vault.load(KEY, "s", change(one.dump()))


def test_another_session_and_another_key_cannot_open_it() -> None:
    stored = vault().dump()
    for key, session in ((KEY, "t"), (b"fedcba9876543210", "s")):
        with pytest.raises(VaultError):
            Vault.load(key, session, stored)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes, got 3"):
        Vault(b"abc", "s")


def test_two_workers_maps_merge_without_loss() -> None:
    one, two = vault(), vault()
    a, shared_a = one.pseudonym("PERSON", "Anna"), one.pseudonym("PERSON", "Both")
    b, shared_b = two.pseudonym("PERSON", "Ben"), two.pseudonym("PERSON", "Both")
    one.merge(two.dump())
    assert shared_a == shared_b
    assert one.restore(f"{a} {b} {shared_a}") == "Anna Ben Both"
    assert len(one) == 3


def test_a_session_has_so_many_stand_ins_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.screening.vault.MOST", 3)
    vault = Vault(b"k" * 16, "session")
    made = [vault.pseudonym("EMAIL_ADDRESS", f"p{i}@example.com") for i in range(3)]
    with pytest.raises(VaultFull):
        vault.pseudonym("EMAIL_ADDRESS", "p3@example.com")
    assert [vault.pseudonym("EMAIL_ADDRESS", f"p{i}@example.com") for i in range(3)] == made
