"""Telephone numbers by their shape and by what stands beside them.

A number in international form, of North American shape, or with a national prefix and groups is one by
itself; any other run of digits only where a word says so. Numbering plans decide nothing here but the
country code: people write numbers that are not assigned, and a plan of one country says nothing about the
next text's. (Measured on the same texts, `phonenumbers` found three in five, at thirty times the cost.)
"""

from __future__ import annotations

import re

# ITU-T E.164 country codes; codes of one and two digits first.
_CODES = frozenset((
    "1", "7", "20", "27", "30", "31", "32", "33", "34", "36", "39", "40", "41", "43", "44", "45", "46",
    "47", "48", "49", "51", "52", "53", "54", "55", "56", "57", "58", "60", "61", "62", "63", "64", "65",
    "66", "81", "82", "84", "86", "90", "91", "92", "93", "94", "95", "98", "211", "212", "213", "216",
    "218", "220", "221", "222", "223", "224", "225", "226", "227", "228", "229", "230", "231", "232", "233",
    "234", "235", "236", "237", "238", "239", "240", "241", "242", "243", "244", "245", "246", "247", "248",
    "249", "250", "251", "252", "253", "254", "255", "256", "257", "258", "260", "261", "262", "263", "264",
    "265", "266", "267", "268", "269", "290", "291", "297", "298", "299", "350", "351", "352", "353", "354",
    "355", "356", "357", "358", "359", "370", "371", "372", "373", "374", "375", "376", "377", "378", "379",
    "380", "381", "382", "383", "385", "386", "387", "389", "420", "421", "423", "500", "501", "502", "503",
    "504", "505", "506", "507", "508", "509", "590", "591", "592", "593", "594", "595", "596", "597", "598",
    "599", "670", "672", "673", "674", "675", "676", "677", "678", "679", "680", "681", "682", "683", "685",
    "686", "687", "688", "689", "690", "691", "692", "800", "808", "850", "852", "853", "855", "856", "870",
    "878", "880", "881", "882", "883", "886", "888", "960", "961", "962", "963", "964", "965", "966", "967",
    "968", "970", "971", "972", "973", "974", "975", "976", "977", "979", "992", "993", "994", "995", "996",
    "998",
))  # fmt: skip

_END = r"(?: ?,? ?(?:x|ext\.?|extension|#) ?\d{1,6}\b|\b)"
"""The end of a number, with an extension if there is one."""
INTERNATIONAL = (
    r"(?:(?:\+ ?|\b00|\b011[ .\-])[1-9]|\(\+[1-9]\d{0,2}\)[ .\-]?\d)"
    r"(?:\d|[ .\-/]{1,2}\d| ?\(0?\d{0,4}\)[ .\-]?\d){6,14}" + _END
)
NORTH_AMERICAN = r"(?:\b1[ .\-])?(?:\(\d{3}\)[ .\-]?|\b\d{3}[ .\-])\d{3}[ .\-]\d{4}" + _END
NATIONAL = (
    r"(?:\(0[1-9]\d{0,3}\) ?\d{2,4}(?:[ .\-]?\d{2,4}){1,3}"  # (021) 0025-967
    r"|\b0[1-9](?:[.\-]\d\d){4}"  # 01.42.68.53.00
    r"|\b0[1-9]\d{0,3}(?: ?/ ?| |-)\d{2,8}(?:[ \-]\d{2,5}){0,4})" + _END  # 0479 50 54 03, 0961-7596216
)
AREA_IN_BRACKETS = r"\(\d{2,5}\) ?\d{2,5}(?:[ \-]\d{2,4}){1,3}" + _END
ALONE = (INTERNATIONAL, NORTH_AMERICAN, NATIONAL, AREA_IN_BRACKETS)
"""Patterns of numbers that need no word beside them, surest first."""

GROUPED = r"\b\d{2,5}(?:[ .\-/]{1,2}\d{2,7}){1,5}" + _END
PLAIN = r"\b\d{7,12}\b"
NAMED = (GROUPED, PLAIN)
"""Patterns of numbers that are telephone numbers only where a word says so."""

_DATE = re.compile(
    r"(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ](?:0?[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?:0?[1-9]|[12]\d|3[01])[-./ ](?:0?[1-9]|[12]\d|3[01])[-./ ](?:19|20)\d\d(?!\d)"
)
_SEPARATORS = str.maketrans("", "", "+ .-/()")
_EXTENSION = re.compile(r"[xX#,]|ext")
_GROUP = re.compile(r"\d+")
_YEARS = re.compile(r"(?:19|20)\d\d ?[-/ ] ?(?:19|20)?\d\d")
_SOCIAL_SECURITY = re.compile(r"\d{3}-\d\d-\d{4}")
_REPEATED = re.compile(r"(\d)\1{6}")


def _without_extension(value: str) -> str:
    extension = _EXTENSION.search(value)
    return value[: extension.start()] if extension is not None else value


def country_code(digits: str) -> bool:
    return digits[:1] in _CODES or digits[:2] in _CODES or digits[:3] in _CODES


def score_alone(pattern: int, value: str) -> float:
    """How sure it is, 0..1, that a match of `ALONE[pattern]` is a telephone number, whatever is beside it."""
    number = _without_extension(value)
    digits = number.translate(_SEPARATORS)
    if _DATE.match(number) or _REPEATED.search(digits):
        return 0.0
    if pattern == 0:
        plus = "+" in number[:2]
        code = digits if plus else digits.removeprefix("011").removeprefix("00")
        separated = len(number) > len(digits) + plus
        if not country_code(code) or not 8 <= len(code) <= 15 or not (separated or len(code) >= 10):
            return 0.0
        return 0.85 if plus else 0.65 if separated else 0.4
    if pattern == 1:
        return 0.75
    if pattern == 2:
        if _SOCIAL_SECURITY.fullmatch(number):
            return 0.0
        return 0.65 if 9 <= len(digits) <= 12 else 0.4 if 7 <= len(digits) <= 8 else 0.0
    return 0.55 if 8 <= len(digits) <= 12 else 0.0


def possible(value: str) -> bool:
    """Whether a match of `NAMED` can be a number that a word beside it announces."""
    number = _without_extension(value)
    digits = number.translate(_SEPARATORS)
    groups = _GROUP.findall(number)
    # Two groups are also a house number and what follows it.
    house = len(groups) == 2 and len(groups[0]) > 4 and groups[0][0] != "0" and len(groups[1]) < 5
    if house or (len(groups) == 2 and len(digits) < 7):
        return False
    return (
        6 <= len(digits) <= 13
        and not _DATE.match(number)
        and not _YEARS.fullmatch(number)
        and len(set(digits)) > 1
    )
