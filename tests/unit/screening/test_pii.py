"""What is personal data, what only looks like it, and how long telling takes."""

from __future__ import annotations

import ipaddress
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hard_negatives import MAKERS, hard_negatives
from gateway.screening import phones, pii
from gateway.screening import pii_validators as check
from gateway.screening.base import Finding
from gateway.screening.matching import PatternSet, to_ascii
from gateway.screening.pii import DEFAULT_ENTITIES, ENTITIES, Custom, canonical, resolve, scan
from gateway.screening.pii_rules import NUMBERS, PATTERNS
from tests.support.effort import least_effort


def found(text: str, *entities: str, threshold: float = 0.5) -> list[tuple[str, str]]:
    return [(f.type, text[f.start : f.end]) for f in scan(text, entities or None, threshold=threshold)]


# -- what must be found --------------------------------------------------------------------------------

ALONE = [
    ("write to anna.k+x@mail.example.co.uk.", "EMAIL_ADDRESS", "anna.k+x@mail.example.co.uk"),
    ("a@xn--d1acufc.xn--p1ai", "EMAIL_ADDRESS", "a@xn--d1acufc.xn--p1ai"),
    ("<mailto:o'neil@example.org>", "EMAIL_ADDRESS", "o'neil@example.org"),
    ("pay 4111 1111 1111 1111 now", "CREDIT_CARD", "4111 1111 1111 1111"),
    ("pay 4111-1111-1111-1111.", "CREDIT_CARD", "4111-1111-1111-1111"),
    ("5555555555554444", "CREDIT_CARD", "5555555555554444"),
    ("3782 822463 10005", "CREDIT_CARD", "3782 822463 10005"),
    ("30569309025904", "CREDIT_CARD", "30569309025904"),
    ("to DE89 3704 0044 0532 0130 00 today", "IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
    ("gb29nwbk60161331926819", "IBAN_CODE", "gb29nwbk60161331926819"),
    ("ssn 536-22-1234 ok", "US_SSN", "536-22-1234"),
    ("con DNI 62.790.513-F, vecino de Lugo", "ES_NIF", "62.790.513-F"),
    ("NRIC/FIN No.F2792683P", "SG_NRIC_FIN", "F2792683P"),
    ("call +1 415-555-2671 x12", "PHONE_NUMBER", "+1 415-555-2671 x12"),
    ("+41 (0)44 668 18 00", "PHONE_NUMBER", "+41 (0)44 668 18 00"),
    ("(415) 555-2671", "PHONE_NUMBER", "(415) 555-2671"),
    ("001-541-754-3010", "PHONE_NUMBER", "001-541-754-3010"),
    ("They answer at 0479 50 54 03.", "PHONE_NUMBER", "0479 50 54 03"),
    ("01.42.68.53.00", "PHONE_NUMBER", "01.42.68.53.00"),
    ("from 86.231.85.193 blocked", "IP_ADDRESS", "86.231.85.193"),
    ("[2001:db8::1]:8080", "IP_ADDRESS", "2001:db8::1"),
    ("refused by 86.231.85.193:443", "IP_ADDRESS", "86.231.85.193"),
    ("(+34) 612 345 678", "PHONE_NUMBER", "(+34) 612 345 678"),
    ("4111.1111.1111.1111", "CREDIT_CARD", "4111.1111.1111.1111"),
    ("00:1A:2B:3C:4D:5E", "MAC_ADDRESS", "00:1A:2B:3C:4D:5E"),
    ("0012.3456.789A", "MAC_ADDRESS", "0012.3456.789A"),
    ("16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ", "CRYPTO", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ"),
    ("bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "CRYPTO", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
    ("0x52908400098527886E0F7030069857D2E4169EE7", "CRYPTO", "0x52908400098527886E0F7030069857D2E4169EE7"),
    ("AA 12 34 56 B", "UK_NINO", "AA 12 34 56 B"),
    ("12345678Z", "ES_NIF", "12345678Z"),
    ("X9613851N", "ES_NIE", "X9613851N"),
    ("RSSMRA85T10A562S", "IT_FISCAL_CODE", "RSSMRA85T10A562S"),
    ("131052-308T", "FI_PERSONAL_IDENTITY_CODE", "131052-308T"),
    ("850709-9805", "SE_PERSONNUMMER", "850709-9805"),
    ("85.07.30-033.28", "BE_NATIONAL_NUMBER", "85.07.30-033.28"),
    ("2 55 08 14 168 025 38", "FR_NIR", "2 55 08 14 168 025 38"),
    ("756.9217.0769.85", "CH_AHV", "756.9217.0769.85"),
    ("529.982.247-25", "BR_CPF", "529.982.247-25"),
    ("11.222.333/0001-81", "BR_CNPJ", "11.222.333/0001-81"),
    ("51 824 753 556", "AU_ABN", "51 824 753 556"),
    ("2123 45670 1", "AU_MEDICARE", "2123 45670 1"),
    ("2341 2341 2346", "IN_AADHAAR", "2341 2341 2346"),
    ("ABCPE1234F", "IN_PAN", "ABCPE1234F"),
    ("27AAPFU0939F1ZV", "IN_GSTIN", "27AAPFU0939F1ZV"),
    ("960121-1234567", "KR_RRN", "960121-1234567"),
    ("1-1017-00230-70-8", "TH_TNIN", "1-1017-00230-70-8"),
    ("S1234567D", "SG_NRIC_FIN", "S1234567D"),
    ("11010519491231002X", "CN_RESIDENT_ID", "11010519491231002X"),
    ("15070649C103", "DE_SOCIAL_SECURITY", "15070649C103"),
    ("911-70-1234", "US_ITIN", "911-70-1234"),
    ("1EG4-TE5-MK73", "US_MBI", "1EG4-TE5-MK73"),
    ("MORGA657054SM9IJ", "UK_DRIVING_LICENCE", "MORGA657054SM9IJ"),
    ("FO999512018AA1AB", "UK_DRIVING_LICENCE", "FO999512018AA1AB"),
    ("GARC850101HDFRRL09", "MX_CURP", "GARC850101HDFRRL09"),
    ("Send it to 1600 Pennsylvania Avenue NW, Washington, DC 20500 today", "STREET_ADDRESS", "1600 Pennsylvania Avenue NW, Washington, DC 20500"),
    ("PSC 2721, Box 8637\nAPO AA 06259", "STREET_ADDRESS", "PSC 2721, Box 8637\nAPO AA 06259"),
    ("12 rue de la Paix, 75002 Paris", "STREET_ADDRESS", "12 rue de la Paix, 75002 Paris"),
    ("Hauptstraße 5, 10115 Berlin", "STREET_ADDRESS", "Hauptstraße 5, 10115 Berlin"),
    ("Via Roma 12, 00184 Roma", "STREET_ADDRESS", "Via Roma 12, 00184 Roma"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "type_", "value"), ALONE, ids=[f"{t}-{i}" for i, (_, t, _) in enumerate(ALONE)]
)
def test_what_is_sure_by_its_look_is_found_with_nothing_beside_it(text: str, type_: str, value: str) -> None:
    assert found(text) == [(type_, value)]


NAMED = [
    ("my social security number is 536221234", "US_SSN", "536221234"),
    ("ITIN: 911701234", "US_ITIN", "911701234"),
    ("NPI 1234567893", "US_NPI", "1234567893"),
    ("routing number 121000358", "ABA_ROUTING_NUMBER", "121000358"),
    ("my bank account is 945456787654", "US_BANK_NUMBER", "945456787654"),
    ("passport: A12803456", "US_PASSPORT", "A12803456"),
    ("my driver's license number is LH329609", "US_DRIVER_LICENSE", "LH329609"),
    ("DEA certificate number BB1388568", "MEDICAL_LICENSE", "BB1388568"),
    ("NHS 4010232137", "UK_NHS", "4010232137"),
    ("mon NAS: 258 933 688", "CA_SIN", "258 933 688"),
    ("ACN 005 499 981", "AU_ACN", "005 499 981"),
    ("tax file number 876543210", "AU_TFN", "876543210"),
    ("My pesel is 44051401458.", "PL_PESEL", "44051401458"),
    ("Steuer-ID: 12345678903", "DE_TAX_ID", "12345678903"),
    ("Reisepass C01234565", "DE_PASSPORT", "C01234565"),
    ("KVNR: A123456780", "DE_HEALTH_INSURANCE", "A123456780"),
    ("partita IVA 01333550323", "IT_VAT_CODE", "01333550323"),
    ("BSN 111222333", "NL_BSN", "111222333"),
    ("여권번호는 M87654321입니다", "KR_PASSPORT", "M87654321"),
    ("RSA ID: 9202201234088", "ZA_ID_NUMBER", "9202201234088"),
    ("TC Kimlik No: 10000000146", "TR_TCKN", "10000000146"),
    ("fødselsnummer 15108695088", "NO_FODSELSNUMMER", "15108695088"),
    ("voter DBJ2289013", "IN_VOTER", "DBJ2289013"),
    ("phone: 5403926876", "PHONE_NUMBER", "5403926876"),
    ("Tel. 9469 9966", "PHONE_NUMBER", "9469 9966"),
    ("655 437 108 office", "PHONE_NUMBER", "655 437 108"),
    ("電話: 0312345678", "PHONE_NUMBER", "0312345678"),
    ('{"user_phone": "5403926876"}', "PHONE_NUMBER", "5403926876"),
    ("card no 675984103431", "CREDIT_CARD", "675984103431"),
    ("geboren am 03.02.1984", "DATE_OF_BIRTH", "03.02.1984"),
    ("She was born on March 3rd, 1984.", "DATE_OF_BIRTH", "March 3rd, 1984"),
    ("Zij is geboren op 23 augustus 1958 te Utrecht.", "DATE_OF_BIRTH", "23 augustus 1958"),
    ("BEGIN:VCARD\nFN:Ingrid Novak\nBDAY:19380109\nEND:VCARD", "DATE_OF_BIRTH", "19380109"),
    ('<DriverLicense state="MD">B-332-815-603-731</DriverLicense>', "US_DRIVER_LICENSE", "B-332-815-603-731"),
    ("driver license no. D701-380-51-633-0, Florida", "US_DRIVER_LICENSE", "D701-380-51-633-0"),
    ("<nhsNumber>4745640196</nhsNumber>", "UK_NHS", "4745640196"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "type_", "value"), NAMED, ids=[f"{t}-{i}" for i, (_, t, _) in enumerate(NAMED)]
)
def test_what_could_be_anything_is_found_beside_a_word_and_not_without(
    text: str, type_: str, value: str
) -> None:
    assert found(text) == [(type_, value)]
    assert found(f"The value {value} stood there.") == []


ASKED = [
    ("see https://example.org/a?b=1.", "URL", "https://example.org/a?b=1"),
    ("on microsoft.com today", "URL", "microsoft.com"),
    ("it was 2024-06-05T09:15:30.500-07:00 then", "DATE_TIME", "2024-06-05T09:15:30.500-07:00"),
    ("a 62-year-old man", "AGE", "62"),
    ("I just turned 46", "AGE", "46"),
    ("zip code is 90210-1234", "ZIP_CODE", "90210-1234"),
    ("Send to postcode EC2A 1NT please", "UK_POSTCODE", "EC2A 1NT"),
]


@pytest.mark.parametrize(("text", "type_", "value"), ASKED)
def test_what_points_at_nobody_is_found_only_when_asked_for(text: str, type_: str, value: str) -> None:
    assert found(text) == []
    assert found(text, type_) == [(type_, value)]


def test_several_values_side_by_side_are_told_apart() -> None:
    text = "4012888888881881 4012-8888-8888-1881 4012 8888 8888 1881"
    assert found(text) == [
        ("CREDIT_CARD", "4012888888881881"),
        ("CREDIT_CARD", "4012-8888-8888-1881"),
        ("CREDIT_CARD", "4012 8888 8888 1881"),
    ]
    assert [value for _, value in found("DE89 3704 0044 0532 0130 00 GB29 NWBK 6016 1331 9268 19")] == [
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
    ]


def test_other_digits_dashes_and_spaces_are_read_as_ours() -> None:
    assert found("４１１１ １１１１ １１１１ １１１１") == [
        ("CREDIT_CARD", "４１１１ １１１１ １１１１ １１１１")
    ]
    assert found("536‑22‑1234") == [("US_SSN", "536‑22‑1234")]
    assert found("+1 415 555 2671") == [("PHONE_NUMBER", "+1 415 555 2671")]


def test_offsets_are_of_the_text_that_was_given() -> None:
    text = "日本語 𝔸é\ud800 anna@example.com und weiter"
    (one,) = scan(text)
    assert (one.start, one.end, text[one.start : one.end]) == (8, 24, "anna@example.com")


# -- what must be left alone ---------------------------------------------------------------------------

CLEAN = [
    "4012-8888-8888-1882", "1748503543012", "order number 4111111111111111", "id: 4111111111111111", "x4111111111111111", "0.4111111111111111",
    "0000 0000 0000 0000", "DE89 3704 0044 0532 0130 01", "LV80 bANK 0000 4351 9500 1", "000-12-3456", "666-12-3456", "536-00-1234", "078-05-1120",
    "order 536-22-1234", "9536-22-1234", "536-22-12345", "icon@2x.png", "git@github.com:acme/x.git", "https://user:pa55@example.com/", "user@localhost",
    "info@presidio.", "version 1.2.3.4", "Chrome/91.0.44.12", "1.3.6.1.4.1.311", "127.0.0.1", "0.0.0.0", "std::vector<ab::cd>", "12:34:56", "::1",
    "2019-2024", "2024-03-15 14:30:00", "15.03.2024 14:30", "40.7128 -74.0060", "1700000000", "ISBN 978-3-16-148410-0", "555-1234", "FF:FF:FF:FF:FF:FF",
    "00:1A:2B:3C:4D", "550e8400-e29b-41d4-a716-446655440000", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ2", "0x0000000000000000000000000000000000000000",
    "12345678A", "AB 12 34 56 1", "529.982.247-26", "3 Court cases, 5 Drive tests", "858 98 1605 000 12 34", "$1,234.56", "call me at 10:30 on 2024-05-01",
    "MORGA613054SM9IJ", "MORGA663054SM9IJ", "MORGA657324SM9IJ", "MORGA657004SM9IJ", "MORG657054SM9IJ", "a1b2::c3",
    "max_tool_calls: 60, max_tokens: 2000000}", '{"tool_call_id": 12345678}',
]  # fmt: skip


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_of_each_kind_of_hard_negative_hardly_any_is_flagged() -> None:
    flagged = {kind: 0 for kind in MAKERS}
    for kind, text in hard_negatives(60):
        flagged[kind] += bool(scan(text))
    assert sum(flagged.values()) <= 0.01 * 60 * len(MAKERS), flagged
    assert max(flagged.values()) <= 2, flagged


# -- types, thresholds, overlaps -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "type_"), [("EMAIL", "EMAIL_ADDRESS"), ("phone", "PHONE_NUMBER"), (" Iban ", "IBAN_CODE"), ("SSN", "US_SSN"), ("IP", "IP_ADDRESS"), ("ADDRESS", "STREET_ADDRESS"), ("ZIP", "ZIP_CODE"), ("CREDIT_CARD", "CREDIT_CARD")])  # fmt: skip
def test_types_have_the_names_that_policies_use(name: str, type_: str) -> None:
    assert canonical(name) == type_


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'SHOE_SIZE': no such type"):
        scan("x", ["SHOE_SIZE"])


def test_only_what_is_asked_for_is_found() -> None:
    text = "anna@example.com 4111 1111 1111 1111"
    assert found(text, "CREDIT_CARD") == [("CREDIT_CARD", "4111 1111 1111 1111")]
    assert scan(text, []) == []


def test_a_lower_threshold_tells_what_has_no_word_beside_it() -> None:
    assert found("121000358", "ABA_ROUTING_NUMBER") == []
    assert found("121000358", "ABA_ROUTING_NUMBER", threshold=0.3) == [("ABA_ROUTING_NUMBER", "121000358")]
    assert found("127.0.0.1", "IP", threshold=0.3) == [("IP_ADDRESS", "127.0.0.1")]


def test_the_defaults_are_types() -> None:
    assert DEFAULT_ENTITIES < ENTITIES
    assert {rule.type for rule in (*NUMBERS, *PATTERNS)} <= ENTITIES
    assert set(pii.ALIASES.values()) <= ENTITIES


def test_of_two_that_overlap_the_surer_stays_then_the_longer() -> None:
    def finding(type_: str, start: int, end: int, score: float) -> Finding:
        return Finding("pii", type_, start, end, score)

    long, sure, short, apart = (
        finding("A", 0, 10, 0.6),
        finding("B", 4, 6, 0.9),
        finding("C", 5, 9, 0.6),
        finding("D", 10, 12, 0.1),
    )
    assert resolve([long, sure, short, apart]) == [sure, apart]
    assert resolve([short, long]) == [long]
    assert resolve([]) == []


spans = st.tuples(st.integers(0, 60), st.integers(1, 20), st.sampled_from([0.5, 0.7, 0.9]))


@given(st.lists(spans, max_size=25))
def test_what_stays_never_overlaps_and_what_goes_overlaps_something_as_sure(
    drawn: list[tuple[int, int, float]],
) -> None:
    findings = [Finding("pii", "T", start, start + size, score) for start, size, score in drawn]
    kept = resolve(findings)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    for one in findings:
        assert any(k.start < one.end and one.start < k.end and k.score >= one.score for k in kept)


# -- recognisers of one's own --------------------------------------------------------------------------

BADGE = Custom("BADGE", r"\bB-(\d{6})\b", ("badge", "Ausweis"), 0.7)


def test_a_recogniser_of_ones_own_finds_its_group_beside_its_word() -> None:
    text = "badge B-123456"
    assert scan(text, [], [BADGE]) == [Finding("pii", "BADGE", 8, 14, 0.7)]
    assert scan("a thing B-123456", [], [BADGE]) == []
    assert scan(text, [], [BADGE], threshold=0.8) == []


def test_a_recogniser_of_ones_own_may_need_check_digits() -> None:
    loyalty = Custom("LOYALTY", r"\b\d{4}-\d{4}\b", validator="luhn")
    reference = Custom("REFERENCE", r"\bRF\d{2}[A-Z0-9]{4,21}\b", validator="mod97")
    assert [f.start for f in scan("1234-5674 1234-5675", [], [loyalty])] == [0]
    assert [f.start for f in scan("RF18539007547034 RF19539007547034", [], [reference])] == [0]


@pytest.mark.parametrize("pattern", ["(a", r"(?=a)", r"(a)\1", "(a)(b)"])
def test_a_pattern_that_is_not_linear_or_not_clear_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="a"):
        scan("aa", [], [Custom("X", pattern)])


def test_a_pattern_that_matches_nothing_at_all_finds_nothing() -> None:
    assert scan("aaa", [], [Custom("X", "b*")]) == []


# -- check digits --------------------------------------------------------------------------------------

CHECKED = [
    (check.luhn, "4111111111111111"), (check.au_abn, "51824753556"), (check.au_tfn, "876543210"), (check.ca_sin, "130692544"),
    (check.uk_nhs, "4010232137"), (check.pl_pesel, "44051401458"), (check.nl_bsn, "111222333"), (check.br_cpf, "52998224725"),
    (check.br_cnpj, "11222333000181"), (check.in_aadhaar, "234123412346"), (check.ch_ahv, "7569217076985"), (check.de_tax_id, "12345678903"),
    (check.us_npi, "1234567893"), (check.aba_routing, "121000358"), (check.fr_nir, "255081416802538"), (check.be_national, "85073003328"),
    (check.th_national, "1101700230708"), (check.no_fodselsnummer, "15108695088"), (check.tr_tckn, "10000000146"), (check.kr_brn, "1048656659"),
]  # fmt: skip


@pytest.mark.parametrize(("valid", "number"), CHECKED, ids=[c.__name__ for c, _ in CHECKED])
def test_a_check_digit_catches_every_single_wrong_one_at_the_end(valid: object, number: str) -> None:
    assert callable(valid)
    others = [number[:-1] + digit for digit in "0123456789" if digit != number[-1]]
    assert valid(number)
    assert not any(valid(other) for other in others)


PARTS = st.sampled_from([":", "::", "1", "ab", "2001", "abcde", "0", ".1", ".255", ".256", ".01", ":ff"])


@given(st.lists(PARTS, min_size=1, max_size=18).map("".join))
@settings(max_examples=400)
def test_an_ipv6_address_is_what_the_standard_library_reads_as_one(value: str) -> None:
    try:
        ipaddress.IPv6Address(value)
        expected = True
    except ValueError:
        expected = False
    assert check.ipv6(value) == expected


def test_iban_lengths_belong_to_countries() -> None:
    assert (check.IBAN_LENGTHS["DE"], check.IBAN_LENGTHS["NO"], check.IBAN_LENGTHS["MT"]) == (22, 15, 31)
    assert check.iban("DE89370400440532013000")
    assert not check.iban("NO89370400440532013000")


@given(st.text("0123456789ABCXYZabc -./", max_size=30))
def test_no_check_raises_for_what_its_rule_lets_through(value: str) -> None:
    scan(f"card ssn passport {value}", ENTITIES)
    for rule in (*NUMBERS, *PATTERNS):
        assert 0 <= rule.alone <= rule.near <= 1, rule


def test_country_codes_are_those_that_exist() -> None:
    assert phones.country_code("14155552671")
    assert phones.country_code("998901234567")
    assert not phones.country_code("99912345678")
    assert not phones.country_code("2101234567")


# -- time and strange texts ----------------------------------------------------------------------------


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_any_text_is_scanned_and_findings_lie_in_it(text: str) -> None:
    for one in scan(text, ENTITIES, threshold=0.0):
        assert 0 <= one.start < one.end <= len(text)
        assert 0 <= one.score <= 1


@given(st.text(max_size=80))
def test_ascii_has_one_character_for_each(text: str) -> None:
    assert len(to_ascii(text)) == len(text)
    assert to_ascii(text).isascii()


def test_a_set_that_ran_out_of_memory_asks_every_pattern() -> None:
    patterns = PatternSet(["a", "b"])

    class Exhausted:
        def Match(self, text: bytes) -> list[int]:
            return []

    patterns._sets = [(Exhausted(), members) for _, members in patterns._sets]
    assert patterns.present(b"nothing") == [0, 1]


HOSTILE = {
    "dotted": "x." * 50_000, "letter": "a" * 100_000, "digit": "1" * 100_000, "at": "a@" * 50_000, "address": "a@a." * 25_000, "colon": ":" * 100_000,
    "dashes": "1-" * 50_000, "groups": "1 " * 50_000, "capitals": "Aa Bb " * 16_600, "street": "Rue de la " * 10_000, "iban": "DE89 1" * 16_000,
    "hex": "0123456789abcdef" * 6_250, "brackets": "(1" * 50_000, "plus": "+1" * 50_000, "http": "http://" * 14_000, "nul": "\0" * 100_000,
    "base64": "".join(random.Random(1).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=100_000)),
    "foreign": "é1 " * 33_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_take_time_by_their_length_alone(kind: str) -> None:
    # A quarter of a second allows for a slow and busy machine; a pattern that backtracks takes minutes.
    assert least_effort(lambda: scan(HOSTILE[kind], ENTITIES), 8, enough=0.25) < 0.25


DENSE = (
    '"123456789(é', "123456789|A:", "tel:123456789)~", "１tel:2341 2341 2346+:9", "–tel:0479 50 54 03", ":: ", "911-70-1234 tel:",
    "[529.982.247-25 tel:", "tel:(021)536-22-a@", '"0479 50 54 03[phone=', "[+850709-9805", "{ 51 824 753 556,tel:", '"AB1234567 passport ', "a@b.co,",
    "~2 55 08 14 168 025 38tel:", "4111 1111 1111 1111 card ", "10.2.3.4 ip ", "1-", "1 ", "03/02/tel:#12345678++", "id: 12345678 ", "DE89 3704 0044 0532 0130 01 ",
)  # fmt: skip
"""The slowest of some 30,000 motifs out of what the rules look for; each fills 20 KB."""


@pytest.mark.parametrize("motif", DENSE)
def test_texts_of_nothing_but_candidates_take_a_few_milliseconds_a_kilobyte(motif: str) -> None:
    text = (motif * 20_000)[:20_000]
    assert least_effort(lambda: scan(text, ENTITIES), 8, enough=0.06) < 0.06


ROWS = {
    "JSON": '{"id": 8812345, "order": "A-48213", "total": 1249.50, "ts": 1718023345, "lat": 52.520008, "qty": 3, "sku": "TX-99-1204"},\n',
    "CSV": "2024-06-10,1718023345,48213,19.99,3,52.520008,13.404954,true,8812345,0.0031\n",
    "log": '10.4.7.19 - - [10/Jun/2024:14:02:25 +0200] "GET /v1/items/48213?page=2 HTTP/1.1" 200 18234 0.031\n',
    "table": "1024 2048 4096 8192  512  256 1200 3400 7812 9011\n",
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_numbers_take_about_a_millisecond_a_kilobyte(kind: str) -> None:
    text = (ROWS[kind] * 100)[:5_000]
    assert least_effort(lambda: scan(text), 8, enough=0.01) < 0.01


def test_an_ordinary_text_takes_well_under_a_millisecond_a_page() -> None:
    text = (
        "The report describes how the team moved 3 services to the new cluster on 2024-05-12 at 10:30. " * 50
    )
    assert least_effort(lambda: scan(text, ENTITIES), 8, enough=0.02) < 0.02
