"""Check digits and formats of numbers that identify people, accounts and devices.

Each function takes the value as its pattern found it, separators already removed (`compact`), and says
whether it can be a real one. They are cheap, never raise for what the patterns let through, and know
nothing of the text around the value: context is `pii`'s.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import date

_DOUBLED = dict(zip("0123456789", (0, 2, 4, 6, 8, 1, 3, 5, 7, 9), strict=True))
_SEPARATORS = str.maketrans("", "", " -./+")
_BASE36 = {c: i for i, c in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")}
_AS_NUMBERS = str.maketrans({c: str(i) for c, i in _BASE36.items()})


def compact(value: str) -> str:
    """Without the separators that people write into numbers, in capitals."""
    return value.translate(_SEPARATORS).upper()


def _weighted(value: str, weights: Sequence[int]) -> int:
    return sum(int(c) * w for c, w in zip(value, weights, strict=False))


def _uniform(value: str) -> bool:
    """All digits the same: a placeholder."""
    return value == value[0] * len(value)


def _real_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _short_date(yymmdd: str) -> bool:
    """A date with two digits of the year, in either century."""
    if not ("01" <= yymmdd[2:4] <= "12" and "01" <= yymmdd[4:6] <= "31"):
        return False
    year, month, day = int(yymmdd[:2]), int(yymmdd[2:4]), int(yymmdd[4:6])
    return _real_date(2000 + year, month, day) or _real_date(1900 + (year or 4), month, day)


# -- checks that many numbers share -------------------------------------------------------------------


def luhn(digits: str) -> bool:
    """The mod-10 check of cards and many other numbers (ISO/IEC 7812-1)."""
    total = sum(map(int, digits[-1::-2])) + sum(map(_DOUBLED.__getitem__, digits[-2::-2]))
    return total % 10 == 0


def mod97(value: str) -> bool:
    """ISO 7064 mod 97-10 as IBANs use it: the first four characters are moved to the end, letters are 10
    to 35, and the remainder is 1. False for what is not letters and digits."""
    if len(value) <= 4 or not (value.isascii() and value.isalnum()):
        return False
    return int((value[4:] + value[:4]).upper().translate(_AS_NUMBERS)) % 97 == 1


def _mod11_10(digits: str) -> bool:
    """ISO 7064 mod 11,10."""
    product = 10
    for c in digits[:-1]:
        total = (int(c) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


_VERHOEFF_D = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_VERHOEFF_P = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 5, 7, 6, 2, 8, 3, 0, 9, 4),
    (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7),
    (9, 4, 5, 3, 1, 2, 6, 8, 7, 0),
    (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5),
    (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)


def _verhoeff(digits: str) -> bool:
    check = 0
    for i, c in enumerate(reversed(digits)):
        check = _VERHOEFF_D[check][_VERHOEFF_P[i % 8][int(c)]]
    return check == 0


# -- money --------------------------------------------------------------------------------------------

# (first digits, lengths): ISO/IEC 7812 issuer ranges as the card schemes publish them.
_ISSUERS: tuple[tuple[range, int, frozenset[int]], ...] = (
    (range(4, 5), 1, frozenset((13, 16, 19))),  # Visa
    (range(51, 56), 2, frozenset((16,))),  # Mastercard
    (range(2221, 2721), 4, frozenset((16,))),
    (range(34, 35), 2, frozenset((15,))),  # American Express
    (range(37, 38), 2, frozenset((15,))),
    (range(300, 306), 3, frozenset((14,))),  # Diners Club
    (range(309, 310), 3, frozenset((14,))),
    (range(36, 37), 2, frozenset((14, 16))),
    (range(38, 40), 2, frozenset((14, 16))),
    (range(6011, 6012), 4, frozenset((16, 17, 18, 19))),  # Discover
    (range(644, 650), 3, frozenset((16, 17, 18, 19))),
    (range(65, 66), 2, frozenset((16, 17, 18, 19))),
    (range(35, 36), 2, frozenset((15, 16, 17, 18, 19))),  # JCB
    (range(2131, 2132), 4, frozenset((15,))),
    (range(1800, 1801), 4, frozenset((15,))),
    (range(62, 63), 2, frozenset((16, 17, 18, 19))),  # UnionPay
    (range(2200, 2205), 4, frozenset((16, 17, 18, 19))),  # Mir
    (range(1, 2), 1, frozenset((15,))),  # UATP
    (range(50, 51), 2, frozenset(range(12, 20))),  # Maestro
    (range(56, 70), 2, frozenset(range(12, 20))),
    (range(9792, 9793), 4, frozenset((16,))),  # Troy
)


def _issued() -> dict[int, frozenset[str]]:
    """The first four digits that numbers of each length can have."""
    beginnings: dict[int, set[str]] = {}
    for numbers, width, lengths in _ISSUERS:
        tail = 10 ** (4 - width)
        four = {str(number * tail + rest) for number in numbers for rest in range(tail)}
        for length in lengths:
            beginnings.setdefault(length, set()).update(four)
    return {length: frozenset(four) for length, four in beginnings.items()}


_BEGINNINGS = _issued()


def credit_card(digits: str) -> bool:
    return digits[:4] in _BEGINNINGS.get(len(digits), ()) and luhn(digits) and not _uniform(digits)


def card_by_name(digits: str) -> bool:
    """A number that the text calls a card: there are issuers beyond those ranges, but the check holds."""
    return luhn(digits) and not _uniform(digits)


# Length of an IBAN by country, from the SWIFT registry.
_IBANS = (
    "AD24", "AE23", "AL28", "AT20", "AZ28", "BA20", "BE16", "BG22", "BH22", "BI27", "BR29", "BY28", "CH21",
    "CR22", "CY28", "CZ24", "DE22", "DJ27", "DK18", "DO28", "EE20", "EG29", "ES24", "FI18", "FK18", "FO18",
    "FR27", "GB22", "GE22", "GI23", "GL18", "GR27", "GT28", "HN28", "HR21", "HU28", "IE22", "IL23", "IQ23",
    "IS26", "IT27", "JO30", "KW30", "KZ20", "LB28", "LC32", "LI21", "LT20", "LU20", "LV21", "LY25", "MC27",
    "MD24", "ME22", "MK19", "MN20", "MR27", "MT31", "MU30", "NI28", "NL18", "NO15", "OM23", "PK24", "PL28",
    "PS29", "PT25", "QA29", "RO24", "RS22", "RU33", "SA24", "SC31", "SD18", "SE24", "SI19", "SK24", "SM27",
    "SO23", "ST25", "SV28", "TL23", "TN24", "TR26", "UA29", "VA22", "VG24", "XK20", "YE30",
)  # fmt: skip
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBANS}


def iban(value: str) -> bool:
    """`value` in capitals, without separators."""
    return IBAN_LENGTHS.get(value[:2]) == len(value) and mod97(value)


def aba_routing(digits: str) -> bool:
    prefix = int(digits[:2])
    known = prefix <= 12 or 21 <= prefix <= 32 or 61 <= prefix <= 72 or prefix == 80
    return known and _weighted(digits, (3, 7, 1) * 3) % 10 == 0 and not _uniform(digits)


_BASE58 = {c: i for i, c in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_BECH32 = {c: i for i, c in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_BECH32_CONSTANTS = (1, 0x2BC830A3)  # bech32 (BIP 173), bech32m (BIP 350)


def _base58check(value: str) -> bool:
    number = 0
    for c in value:
        if c not in _BASE58:
            return False
        number = number * 58 + _BASE58[c]
    if number >> 200:
        return False
    raw = number.to_bytes(25, "big")
    # A leading "1" is a zero byte, which only the version byte 0 makes.
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def _bech32(value: str) -> bool:
    prefix, _, data = value.lower().rpartition("1")
    if any(c not in _BECH32 for c in data):
        return False
    check = 1
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    for number in (*expanded, *(_BECH32[c] for c in data)):
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ number
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> i & 1 else 0
    return check in _BECH32_CONSTANTS


def bitcoin(value: str) -> bool:
    return _bech32(value) if value[:3].lower() == "bc1" else _base58check(value)


def ethereum(value: str) -> bool:
    """Forty hexadecimal digits; an address of few different ones is a placeholder."""
    return len(set(value[2:].lower())) > 5


# -- United States, Canada ----------------------------------------------------------------------------


def us_ssn(digits: str) -> bool:
    """What the Social Security Administration can have issued; known samples of advertisements are not."""
    return not (
        digits[:3] in ("000", "666")
        or digits[0] == "9"
        or digits[3:5] == "00"
        or digits[5:] == "0000"
        or digits in ("078051120", "219099999")
        or _uniform(digits)
    )


def us_itin(digits: str) -> bool:
    group = int(digits[3:5])
    return digits[0] == "9" and (50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or group >= 94)


def us_npi(digits: str) -> bool:
    return digits[0] in "12" and luhn("80840" + digits) and len(set(digits)) > 2


def us_dea(value: str) -> bool:
    digits = value[2:]
    odd, even = sum(map(int, digits[0:6:2])), sum(map(int, digits[1:6:2]))
    return (odd + 2 * even) % 10 == int(digits[6])


def ca_sin(digits: str) -> bool:
    return digits[0] not in "08" and luhn(digits) and not _uniform(digits)


# -- United Kingdom, Ireland --------------------------------------------------------------------------


def uk_nhs(digits: str) -> bool:
    return _weighted(digits, range(10, 0, -1)) % 11 == 0 and not _uniform(digits)


def uk_nino(value: str) -> bool:
    return value[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


_UK_LICENCE = 16
"""Characters of a British driving licence's number."""


def uk_driving_licence(value: str) -> bool:
    """Five of the surname (filled up with 9), decade, month (women plus 50) and day of birth, year, two
    initials, three characters of the computer's."""
    if len(value) != _UK_LICENCE or not value[5:11].isdigit():
        return False
    month, day = int(value[6:8]) % 50, int(value[8:10])
    return 1 <= month <= 12 and 1 <= day <= 31


_POSTCODE_AREAS = frozenset((
    "AB", "AL", "B", "BA", "BB", "BD", "BH", "BL", "BN", "BR", "BS", "BT", "CA", "CB", "CF", "CH", "CM",
    "CO", "CR", "CT", "CV", "CW", "DA", "DD", "DE", "DG", "DH", "DL", "DN", "DT", "DY", "E", "EC", "EH",
    "EN", "EX", "FK", "FY", "G", "GL", "GU", "GY", "HA", "HD", "HG", "HP", "HR", "HS", "HU", "HX", "IG",
    "IM", "IP", "IV", "JE", "KA", "KT", "KW", "KY", "L", "LA", "LD", "LE", "LL", "LN", "LS", "LU", "M",
    "ME", "MK", "ML", "N", "NE", "NG", "NN", "NP", "NR", "NW", "OL", "OX", "PA", "PE", "PH", "PL", "PO",
    "PR", "RG", "RH", "RM", "S", "SA", "SE", "SG", "SK", "SL", "SM", "SN", "SO", "SP", "SR", "SS", "ST",
    "SW", "SY", "TA", "TD", "TF", "TN", "TQ", "TR", "TS", "TW", "UB", "W", "WA", "WC", "WD", "WF", "WN",
    "WR", "WS", "WV", "YO", "ZE", "GIR",
))  # fmt: skip


def uk_postcode(value: str) -> bool:
    area = value[:3] if value[:3] == "GIR" else value[: 2 if value[1].isalpha() else 1]
    return area in _POSTCODE_AREAS


# -- continental Europe -------------------------------------------------------------------------------


def de_tax_id(digits: str) -> bool:
    """Eleven digits of which one is repeated among the first ten, none more than three times."""
    counts = [digits[:10].count(c) for c in set(digits[:10])]
    repeated = [count for count in counts if count > 1]
    return digits[0] != "0" and len(repeated) <= 1 and max(counts) <= 3 and _mod11_10(digits)


def de_lanr(digits: str) -> bool:
    """Physician number: weights 4 and 9, and the last two digits are a specialty."""
    return (10 - _weighted(digits[:6], (4, 9, 4, 9, 4, 9)) % 10) % 10 == int(digits[6]) and digits[7:] != "00"


def de_social_security(value: str) -> bool:
    """Area, date of birth (a second number for one day adds 50), initial, serial: weights over the digits,
    the letter as two."""
    if not (1 <= int(value[4:6]) <= 12 and 1 <= int(value[2:4]) % 50 <= 31):
        return False
    digits = f"{value[:8]}{ord(value[8]) - 64:02d}{value[9:11]}"
    weights = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
    total = sum(sum(divmod(int(c) * w, 10)) for c, w in zip(digits, weights, strict=True))
    return total % 10 == int(value[11])


def de_health_insurance(value: str) -> bool:
    digits = f"{ord(value[0]) - 64:02d}{value[1:9]}"
    total = sum(sum(divmod(int(c) * w, 10)) for c, w in zip(digits, (1, 2) * 5, strict=True))
    return total % 10 == int(value[9])


def icao(value: str) -> bool:
    """Check digit of machine-readable travel documents (ICAO 9303): weights 7, 3, 1."""
    total = sum(_BASE36[c] * w for c, w in zip(value[:-1], (7, 3, 1) * 4, strict=False))
    return value[-1].isdigit() and total % 10 == int(value[-1]) and any(c.isdigit() for c in value[:-1])


_NIF_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def es_nif(value: str) -> bool:
    return _NIF_LETTERS[int(value[:-1]) % 23] == value[-1]


def es_nie(value: str) -> bool:
    return _NIF_LETTERS[int(str("XYZ".index(value[0])) + value[1:-1]) % 23] == value[-1]


_CODICE_DIGITS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_CODICE_LETTERS = (*_CODICE_DIGITS, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_CODICE_ODD = dict(zip(_BASE36, (*_CODICE_DIGITS, *_CODICE_LETTERS), strict=True))


def it_fiscal_code(value: str) -> bool:
    odd = sum(_CODICE_ODD[c] for c in value[0:15:2])
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in value[1:15:2])
    return chr(65 + (odd + even) % 26) == value[15]


def it_vat(digits: str) -> bool:
    return luhn(digits) and not _uniform(digits)


def pl_pesel(digits: str) -> bool:
    """Date of birth with the century in the month, and a weighted check digit."""
    month = int(digits[2:4]) % 20
    if not (1 <= month <= 12 and 1 <= int(digits[4:6]) <= 31):
        return False
    return _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def fi_identity(value: str) -> bool:
    born = f"{value[4:6]}{value[2:4]}{value[:2]}"
    return (
        _short_date(born)
        and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(value[:6] + value[-4:-1]) % 31] == value[-1]
    )


def se_personnummer(digits: str) -> bool:
    ten = digits[-10:]
    day = int(ten[4:6])
    # Coordination numbers add 60 to the day.
    return _short_date(ten[:4] + f"{day - 60 if day > 60 else day:02d}") and luhn(ten)


def no_fodselsnummer(digits: str) -> bool:
    first = _weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1))
    second = _weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1))
    return first % 11 == 0 and second % 11 == 0 and _short_date(digits[4:6] + digits[2:4] + digits[:2])


def dk_cpr(digits: str) -> bool:
    return _short_date(digits[4:6] + digits[2:4] + digits[:2])


def nl_bsn(digits: str) -> bool:
    return (_weighted(digits[:8], range(9, 1, -1)) - int(digits[8])) % 11 == 0 and not _uniform(digits)


def be_national(digits: str) -> bool:
    number, check = int(digits[:9]), int(digits[9:])
    return 97 - number % 97 == check or 97 - (2_000_000_000 + number) % 97 == check


def fr_nir(digits: str) -> bool:
    month = int(digits[3:5])
    return digits[0] in "12" and 1 <= month <= 42 and 97 - int(digits[:13]) % 97 == int(digits[13:])


def ch_ahv(digits: str) -> bool:
    return digits.startswith("756") and _weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


# -- Asia, Pacific, Africa, South America --------------------------------------------------------------


def au_abn(digits: str) -> bool:
    weights = (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)
    return digits[0] != "0" and _weighted(str(int(digits[0]) - 1) + digits[1:], weights) % 89 == 0


def au_acn(digits: str) -> bool:
    return (10 - _weighted(digits[:8], range(8, 0, -1)) % 10) % 10 == int(digits[8]) and not _uniform(digits)


def au_tfn(digits: str) -> bool:
    return _weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0 and not _uniform(digits)


def au_medicare(digits: str) -> bool:
    return digits[0] in "23456" and _weighted(digits[:8], (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == int(digits[8])


def in_aadhaar(digits: str) -> bool:
    return digits[0] not in "01" and digits != digits[::-1] and _verhoeff(digits)


def in_gstin(value: str) -> bool:
    """State 01 to 37, and the check character of the GST network."""
    if not 1 <= int(value[:2]) <= 37:
        return False
    total = 0
    for i, c in enumerate(value[:14]):
        product = _BASE36[c] * (2 if i % 2 else 1)
        total += product // 36 + product % 36
    return _BASE36[value[14]] == (36 - total % 36) % 36


_INDIAN_STATES = frozenset((
    "AN", "AP", "AR", "AS", "BR", "CG", "CH", "DD", "DL", "DN", "GA", "GJ", "HP", "HR", "JH", "JK", "KA",
    "KL", "LA", "LD", "MH", "ML", "MN", "MP", "MZ", "NL", "OD", "OR", "PB", "PY", "RJ", "SK", "TN", "TR",
    "TS", "UA", "UK", "UP", "WB",
))  # fmt: skip


def in_vehicle(value: str) -> bool:
    return value[:2] in _INDIAN_STATES


def kr_rrn(digits: str) -> bool:
    """Date of birth, then 1 to 4 for citizens; check digits ended in October 2020."""
    return digits[6] in "1234" and _short_date(digits[:6])


def kr_frn(digits: str) -> bool:
    return digits[6] in "5678" and _short_date(digits[:6])


def kr_brn(digits: str) -> bool:
    total = _weighted(digits, (1, 3, 7, 1, 3, 7, 1, 3, 5)) + int(digits[8]) * 5 // 10
    return (10 - total % 10) % 10 == int(digits[9]) and not _uniform(digits)


def kr_driver_license(digits: str) -> bool:
    return 11 <= int(digits[:2]) <= 28


def th_national(digits: str) -> bool:
    return digits[0] in "12345678" and (11 - _weighted(digits[:12], range(13, 1, -1)) % 11) % 10 == int(
        digits[12]
    )


def za_identity(digits: str) -> bool:
    return digits[10] in "012" and _short_date(digits[:6]) and luhn(digits)


def cn_resident(value: str) -> bool:
    if not _real_date(int(value[6:10]), int(value[10:12]), int(value[12:14])):
        return False
    return "10X98765432"[_weighted(value[:17], [pow(2, 17 - i, 11) for i in range(17)]) % 11] == value[17]


def sg_nric(value: str) -> bool:
    total = _weighted(value[1:8], (2, 7, 6, 5, 4, 3, 2)) + {"T": 4, "G": 4, "M": 3}.get(value[0], 0)
    letters = {
        "S": "JZIHGFEDCBA",
        "T": "JZIHGFEDCBA",
        "F": "XWUTRQPNMLK",
        "G": "XWUTRQPNMLK",
        "M": "XWUTRQPNJLK",
    }
    index = 10 - total % 11 if value[0] == "M" else total % 11
    return letters[value[0]][index] == value[8]


def tr_tckn(digits: str) -> bool:
    odd, even = sum(map(int, digits[0:9:2])), sum(map(int, digits[1:8:2]))
    tenth = (odd * 7 - even) % 10
    return digits[0] != "0" and tenth == int(digits[9]) and sum(map(int, digits[:10])) % 10 == int(digits[10])


def _br_check(digits: str, weights: Sequence[int]) -> int:
    rest = _weighted(digits, weights) % 11
    return 0 if rest < 2 else 11 - rest


def br_cpf(digits: str) -> bool:
    first = _br_check(digits[:9], range(10, 1, -1))
    second = _br_check(digits[:10], range(11, 1, -1))
    return digits[9:] == f"{first}{second}" and not _uniform(digits)


def br_cnpj(digits: str) -> bool:
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    first, second = _br_check(digits[:12], weights[1:]), _br_check(digits[:13], weights)
    return digits[12:] == f"{first}{second}" and not _uniform(digits)


# -- devices ------------------------------------------------------------------------------------------


_IPV6_GROUPS = 8


def ipv6(value: str) -> bool:
    """Groups of up to four hexadecimal digits, one run of zeros left out, the last two perhaps as IPv4."""
    address = value.partition("%")[0]
    if address.count(":") < 2:
        return False
    if "." in address:
        head, _, last = address.rpartition(":")
        try:
            ipaddress.IPv4Address(last)
        except ValueError:
            return False
        address = f"{head}:0:0"
    head, left_out, tail = address.partition("::")
    groups = head.split(":") if head or not left_out else []
    if tail:
        groups += tail.split(":")
    full = len(groups) < _IPV6_GROUPS if left_out else len(groups) == _IPV6_GROUPS
    return full and all(0 < len(group) <= 4 for group in groups)


_ASSIGNED = "23fF"
"""How addresses of hosts begin: global unicast, unique local and link local."""


def ordinary_ip(value: str) -> bool:
    """An address that can point at somebody: no loopback, wildcard, broadcast, netmask or bare network; of
    IPv6, several groups and a digit among them (`a::b` is code)."""
    if ":" in value:
        groups = [group for group in value.partition("%")[0].split(":") if group]
        if len(groups) == 2:
            return len(groups[0]) == 4 and groups[0][0] in _ASSIGNED and any(map(str.isdigit, groups[0]))
        return len(groups) > 2 and any(map(str.isdigit, value))
    return not value.startswith(("127.", "0.", "255.")) and not value.endswith(".0.0.0")


_MAC_SEPARATORS = frozenset(":-.")


def mac_address(value: str) -> bool:
    return len(set(value.lower()) - _MAC_SEPARATORS) > 1
