"""What each type of personal data looks like, how sure its look alone makes us, and which words make us surer.

A number of digits and separators is described by its shapes: the lengths of its groups with the separators
between them, `_` for a space, so `3-2-4` is `078-05-1120`. Everything else has an RE2 pattern. `alone` is the score of a
value that is valid and has nothing beside it, `near` of one with one of `words`; what scores under the
threshold of `pii.scan`, usually one half, is not reported. A number whose check can be met by one random
number in ten is therefore not reported alone.
"""

# ruff: noqa: E501 - a rule is a line

from __future__ import annotations

from collections.abc import Callable

from gateway.screening import pii_validators as check
from gateway.screening.matching import Cues
from gateway.values import frozen


@frozen
class Rule:
    """One way to write one type. `valid` gets the value without separators, in capitals, unless `raw`."""

    type: str
    alone: float
    near: float
    words: Cues | None = None
    shapes: str = ""
    pattern: str = ""
    valid: Callable[[str], bool] | None = None
    raw: bool = False


_CARD = Cues(
    "=card", "=cards", "=cc", "=ccn", "=pan", "credit", "debit", "visa", "mastercard", "master card", "amex",
    "american express", "maestro", "discover", "diners", "=jcb", "kreditkarte", "karte", "carte", "tarjeta", "cartao",
    "cartão", "carta di", "kaart", "kort", "karta", "카드", "カード", "信用卡", "карт", "card number", "cardnumber", "card no",
)  # fmt: skip
_SSN = Cues("social security", "socialsecurity", "=ssn", "=ssns", "=ssid", "soc sec", "seguro social")
_TAXPAYER = Cues("=itin", "taxpayer", "tax id", "=tin", "=ssn", "individual tax")
_PASSPORT = Cues(
    "passport", "travel document", "reisepass", "=pass-nr", "pass-nr", "passnummer", "passeport", "passaporto",
    "pasaporte", "passaporte", "paspoort", "=pass", "여권", "パスポート", "护照", "паспорт", "personalausweis", "ausweis",
)  # fmt: skip
_LICENCE = Cues(
    "driver's licen", "drivers licen", "driver licen", "driving licen", "=dl", "=dln", "driver’s licen", "licence", "license",
    "permit", "=lic", "driverlicen", "driverslicen", "rijbewijs", "운전면허", "führerschein", "운전",
)  # fmt: skip
_BANK = Cues(
    "bank account", "account number", "account no", "account #", "=acct", "checking", "savings", "=bank", "accountnumber",
    "kontonummer", "=konto", "compte", "cuenta", "conto corrente", "deposit", "bank_account",
)  # fmt: skip
_ROUTING = Cues("routing", "=aba", "=rtn", "bank code", "transit number")
_HEALTH = Cues("=nhs", "nhsnumber", "national health", "health service", "patient", "health authority")
_SIN = Cues("=sin", "=nas", "social insurance", "assurance sociale")
_ABN = Cues("=abn", "australian business", "business number")
_ACN = Cues("=acn", "australian company", "company number")
_TFN = Cues("=tfn", "tax file", "australian tax")
_MEDICARE = Cues("medicare", "=mbi", "beneficiary")
_PESEL = Cues("pesel", "obywatel")
_STEUER = Cues("steuer", "=idnr", "=tin", "identifikationsnummer", "=tax id", "tax id")
_ARZT = Cues("=lanr", "arztnummer", "arzt", "=bsnr")
_AADHAAR = Cues("aadhaar", "aadhar", "uidai", "आधार")
_KOREAN = Cues("=rrn", "resident registration", "주민", "korean", "=frn", "foreigner registration", "외국인")
_KOREAN_COMPANY = Cues("=brn", "business registration", "사업자")
_THAI = Cues("=tnin", "thai", "เลขประจำตัวประชาชน", "ประชาชน", "national id")
_SOUTH_AFRICA = Cues(
    "south africa", "=rsa", "=sa id", "=id number", "identity number", "id number", "resident", "refugee"
)
_SWEDEN = Cues("personnummer", "samordningsnummer", "=pnr", "swedish", "personal identity number")
_NORWAY = Cues("fødselsnummer", "fodselsnummer", "personnummer", "norwegian", "=fnr")
_DENMARK = Cues("=cpr", "cpr-nummer", "personnummer", "danish")
_NETHERLANDS = Cues("=bsn", "burgerservicenummer", "sofinummer", "citizen service")
_BELGIUM = Cues("rijksregister", "registre national", "national register", "=nrn", "=insz", "=niss")
_FRANCE = Cues("sécurité sociale", "securite sociale", "=nir", "=insee", "numéro de sécu", "sécu")
_SWISS = Cues("=ahv", "=avs", "=oasi", "sozialversicherung")
_ITALY_VAT = Cues("partita iva", "p.iva", "p. iva", "=piva", "=iva", "=vat", "codice fiscale")
_BRAZIL = Cues("=cpf", "=cnpj", "cadastro")
_TURKEY = Cues("=tckn", "kimlik", "=tc", "t.c.")
_PROVIDER = Cues("=npi", "provider")
_DEA = Cues(
    "=dea", "medical licen", "=certificate", "prescriber", "controlled substance", "certificate number"
)
_NIF = Cues("=nif", "=dni", "=nie", "identificación", "identificacion", "documento nacional")
_ITALY_CARD = Cues(
    "carta d'identità", "carta d'identita", "carta di identita", "identity card", "=cie", "carta d’identità"
)
_ITALY_PASS = Cues("passaporto", "passport", "travel document")
_VOTER = Cues("voter", "=epic", "election")
_VEHICLE = Cues("vehicle", "registration", "=rto", "number plate", "=plate", "licence plate", "license plate")
_POSTCODE = Cues("postcode", "post code", "postal", "=zip", "address", "=postal code")
_ZIP = Cues(
    "zip", "postal code", "postcode", "post code", "=plz", "postleitzahl", "code postal", "código postal", "codigo postal",
    "=cap", "=cep", "postnummer", "postinumero", "kod pocztowy", "우편번호", "郵便番号",
)  # fmt: skip
_KVNR = Cues(
    "=kvnr",
    "krankenkasse",
    "krankenversich",
    "versichertennummer",
    "=egk",
    "gesundheitskarte",
    "health insurance",
)
_UEN = Cues("=uen", "unique entity")
_EMPLOYER = Cues("=ein", "=fein", "employer identification", "federal tax id", "tax id")
_MYNUMBER = Cues("my number", "マイナンバー", "個人番号", "=mynumber")
BIRTH = Cues(
    "=born", "birth", "=dob", "=bday", "d.o.b", "birthday", "geboren", "geburt", "=geb", "né le", "née le", "=naissance", "nacimiento",
    "nacido", "nacida", "nascita", "nato il", "nata il", "nato a ", "nata a ", "nascimento", "nascido", "nascida", "geboortedatum", "urodzeni",
    "födelse", "=född", "født", "fødsels", "syntymä", "생년월일", "생일", "生年月日", "出生", "рождени",
)  # fmt: skip
IP_WORDS = Cues(
    "=ip", "=ips", "address", "=host", "=server", "=src", "=dst", "ipv4", "ipv6", "=addr", "=client"
)
PHONE = Cues(
    "phone", "=tel", "=mobile", "=cell", "=fax", "=call", "=dial", "whatsapp", "=text me", "=sms", 
    "contact", "=reach", "=ring", "hotline", "helpline", "landline", "=office", "=handy", "telefon", "teléfono",
    "móvil", "=movil", "celular", "portable", "téléphone", "numéro", "=mobil", "rufnummer", "cellulare", "puhelin",
    "=gsm", "toll free", "=mob", "=ruf mich", "=rufen", "anruf", "appelez", "appeler", "llámame", "llamame", "llámenos", "llamar", "chiama", "=ligue para",
    "=ligar", "dzwoń", "dzwon", "=bel mij", "answering", "registered", "=pager", "=desk", "callback", "=voicemail",
    "電話", "전화", "телефон", "=тел", "โทร", "my number", "his number", "her number", "their number", "your number", "手机", "手機", "电话", "휴대", "फोन", "फ़ोन", "هاتف", "=tlf", "=tél", "=msisdn", "messages to",
)  # fmt: skip
NUMBER_AFTER = Cues("=office", "=fax", "=mobile", "=home", "=work", "=cell", "=desk", "=phone", "=tel")

_SURE = 0.95
_LIKELY = 0.85
_FAIR = 0.6
_WEAK = 0.4  # under the usual threshold: reported only with a word beside it

NUMBERS = (
    Rule("CREDIT_CARD", 0.9, 1.0, _CARD, "4-4-4-4 4_4_4_4 4.4.4.4 4-6-5 4_6_5 4-4-4-4-3 4_4_4_4_3", valid=check.credit_card),
    Rule("CREDIT_CARD", 0.75, 1.0, _CARD, "14 15 16 4-6-4 4_6_4", valid=check.credit_card),
    Rule("CREDIT_CARD", _WEAK, _SURE, _CARD, "12 13 17 18 19", valid=check.credit_card),
    Rule("CREDIT_CARD", 0.1, 0.85, _CARD, "12 13 14 15 16 17 18 19 4-4-4-4 4_4_4_4", valid=check.card_by_name),
    Rule("US_SSN", _LIKELY, 1.0, _SSN, "3-2-4", valid=check.us_ssn),
    Rule("US_SSN", 0.5, _SURE, _SSN, "3.2.4 3_2_4", valid=check.us_ssn),
    Rule("US_SSN", 0.3, _LIKELY, _SSN, "9 3-6 5-4", valid=check.us_ssn),
    Rule("US_ITIN", _FAIR, _SURE, _TAXPAYER, "3-2-4", valid=check.us_itin),
    Rule("US_ITIN", 0.3, _LIKELY, _TAXPAYER, "9 3-6 5-4 3_2_4", valid=check.us_itin),
    Rule("US_EIN", 0.2, 0.7, _EMPLOYER, "2-7"),
    Rule("US_NPI", _WEAK, _SURE, _PROVIDER, "10 4-3-3 4_3_3", valid=check.us_npi),
    Rule("ABA_ROUTING_NUMBER", _WEAK, _SURE, _ROUTING, "9 4-4-1", valid=check.aba_routing),
    Rule("US_BANK_NUMBER", 0.05, 0.7, _BANK, "8 9 10 11 12 13 14 15 16 17"),
    Rule("US_PASSPORT", 0.05, 0.75, _PASSPORT, "9"),
    Rule("US_DRIVER_LICENSE", 0.05, 0.7, _LICENCE, "7 8 9 10 12 13 4-2-4 3-3-3 3-2-4 3_3_3"),
    Rule("UK_NHS", _WEAK, 1.0, _HEALTH, "10 3-3-4 3_3_4", valid=check.uk_nhs),
    Rule("CA_SIN", _WEAK, _SURE, _SIN, "3-3-3 3_3_3 9", valid=check.ca_sin),
    Rule("AU_ABN", _FAIR, 1.0, _ABN, "2_3_3_3", valid=check.au_abn),
    Rule("AU_ABN", _WEAK, 1.0, _ABN, "11", valid=check.au_abn),
    Rule("AU_ACN", _WEAK, _SURE, _ACN, "3_3_3 9", valid=check.au_acn),
    Rule("AU_TFN", _WEAK, _SURE, _TFN, "3_3_3 9", valid=check.au_tfn),
    Rule("AU_MEDICARE", 0.55, 1.0, _MEDICARE, "4_5_1", valid=check.au_medicare),
    Rule("AU_MEDICARE", _WEAK, 1.0, _MEDICARE, "10", valid=check.au_medicare),
    Rule("PL_PESEL", _WEAK, 1.0, _PESEL, "11", valid=check.pl_pesel),
    Rule("DE_TAX_ID", _WEAK, 1.0, _STEUER, "11 2_3_3_3", valid=check.de_tax_id),
    Rule("DE_LANR", 0.3, _SURE, _ARZT, "9", valid=check.de_lanr),
    Rule("IT_VAT_CODE", _WEAK, _SURE, _ITALY_VAT, "11", valid=check.it_vat),
    Rule("SE_PERSONNUMMER", 0.7, 1.0, _SWEDEN, "6-4 8-4 6+4", valid=check.se_personnummer),
    Rule("SE_PERSONNUMMER", _WEAK, 1.0, _SWEDEN, "10 12", valid=check.se_personnummer),
    Rule("NO_FODSELSNUMMER", _FAIR, 1.0, _NORWAY, "6_5", valid=check.no_fodselsnummer),
    Rule("NO_FODSELSNUMMER", _WEAK, 1.0, _NORWAY, "11", valid=check.no_fodselsnummer),
    Rule("DK_CPR", 0.3, _LIKELY, _DENMARK, "6-4 10", valid=check.dk_cpr),
    Rule("NL_BSN", _WEAK, _SURE, _NETHERLANDS, "9 4.2.3 3.3.3", valid=check.nl_bsn),
    Rule("BE_NATIONAL_NUMBER", 0.9, 1.0, _BELGIUM, "2.2.2-3.2", valid=check.be_national),
    Rule("BE_NATIONAL_NUMBER", _WEAK, 1.0, _BELGIUM, "11", valid=check.be_national),
    Rule("FR_NIR", 0.9, 1.0, _FRANCE, "1_2_2_2_3_3_2 13_2", valid=check.fr_nir),
    Rule("FR_NIR", 0.55, 1.0, _FRANCE, "15", valid=check.fr_nir),
    Rule("CH_AHV", 0.9, 1.0, _SWISS, "3.4.4.2", valid=check.ch_ahv),
    Rule("CH_AHV", _WEAK, 1.0, _SWISS, "13", valid=check.ch_ahv),
    Rule("IN_AADHAAR", 0.5, 1.0, _AADHAAR, "4_4_4 4-4-4", valid=check.in_aadhaar),
    Rule("IN_AADHAAR", _WEAK, 1.0, _AADHAAR, "12", valid=check.in_aadhaar),
    Rule("KR_RRN", 0.7, 1.0, _KOREAN, "6-7", valid=check.kr_rrn),
    Rule("KR_RRN", _WEAK, 0.9, _KOREAN, "13", valid=check.kr_rrn),
    Rule("KR_FRN", 0.7, 1.0, _KOREAN, "6-7", valid=check.kr_frn),
    Rule("KR_FRN", _WEAK, 0.9, _KOREAN, "13", valid=check.kr_frn),
    Rule("KR_BRN", _FAIR, 1.0, _KOREAN_COMPANY, "3-2-5", valid=check.kr_brn),
    Rule("KR_BRN", _WEAK, 1.0, _KOREAN_COMPANY, "10", valid=check.kr_brn),
    Rule("KR_DRIVER_LICENSE", _FAIR, 1.0, _LICENCE, "2-2-6-2 2_2_6_2", valid=check.kr_driver_license),
    Rule("KR_DRIVER_LICENSE", 0.1, 0.9, _LICENCE, "12", valid=check.kr_driver_license),
    Rule("TH_TNIN", 0.9, 1.0, _THAI, "1-4-5-2-1 1_4_5_2_1", valid=check.th_national),
    Rule("TH_TNIN", _WEAK, 1.0, _THAI, "13", valid=check.th_national),
    Rule("ZA_ID_NUMBER", 0.45, 1.0, _SOUTH_AFRICA, "13 6_4_2_1 6_4_3", valid=check.za_identity),
    Rule("TR_TCKN", _WEAK, 1.0, _TURKEY, "11", valid=check.tr_tckn),
    Rule("JP_MY_NUMBER", 0.1, _LIKELY, _MYNUMBER, "12 4_4_4 4-4-4"),
    Rule("BR_CPF", 0.9, 1.0, _BRAZIL, "3.3.3-2", valid=check.br_cpf),
    Rule("BR_CPF", _WEAK, 1.0, _BRAZIL, "11", valid=check.br_cpf),
    Rule("BR_CNPJ", 0.9, 1.0, _BRAZIL, "2.3.3/4-2", valid=check.br_cnpj),
    Rule("BR_CNPJ", _WEAK, 1.0, _BRAZIL, "14", valid=check.br_cnpj),
    Rule("ZIP_CODE", 0.1, 0.7, _ZIP, "4 5 5-4 5-3 2-3 3_2"),
)  # fmt: skip

_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|january|february|march|april|june|july|august|september|"
    r"october|november|december|januar|februar|marz|mai|juni|juli|oktober|dezember|janvier|fevrier|mars|avril|juin|juillet|"
    r"aout|septembre|octobre|novembre|decembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|"
    r"noviembre|diciembre|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre|janeiro|fevereiro|"
    r"marco|maio|junho|julho|setembro|outubro|novembro|dezembro|januari|februari|maart|mei|augustus)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH_NUMBER = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:18|19|20)\d\d"
_CLOCK = r"(?:[T ]\d{1,2}:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?: ?(?:Z|[AaPp][Mm]|[+-]\d\d:?\d\d))?)?"
DATE = (
    rf"(?i)\b(?:{_YEAR}-{_MONTH_NUMBER}-{_DAY}{_CLOCK}|{_YEAR}[/.]{_MONTH_NUMBER}[/.]{_DAY}|"
    rf"{_DAY}[/.\-]{_DAY}[/.\-](?:{_YEAR}|\d\d)|"
    rf"{_DAY}(?:st|nd|rd|th|er|\.)?[ \-](?:of |de )?{_MONTH}\.?,?[ \-](?:de |del )?(?:{_YEAR}|\d\d)|"
    rf"{_MONTH}\.?[ \-]{_DAY}(?:st|nd|rd|th)?,?[ \-]{_YEAR}|"
    rf"{_YEAR}\. ?{_MONTH_NUMBER}\. ?{_DAY})\b"
)
_LOOSE_DATE = (
    rf"(?i)\b(?:{_MONTH}\.?[ \-]{_DAY}|{_DAY} {_MONTH}|{_MONTH} {_YEAR}|{_DAY}/{_DAY}|{_MONTH_NUMBER}/{_YEAR}|"
    rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:in|since|during|of) {_YEAR})\b"
)

_APARTMENT = (
    r"(?:,?\s{1,4}(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|Room|Rm|Bldg)\.? ?#?[A-Z0-9-]{1,6}|,? #\d{1,5})?"
)
_TOWN = (
    r"(?:,\s{0,4}[A-Z][A-Za-z.'-]{1,24}(?: [A-Z][A-Za-z.'-]{1,24}){0,2})?"
    r"(?:,?\s{1,4}[A-Z]{2}(?: \d{5}(?:-\d{4})?)?\b|,?\s{1,4}\d{4,5}\b(?: [A-Z][a-z]{2,24})?|,?\s{1,4}[A-Z]{1,2}\d[A-Z0-9]? \d[A-Z]{2}\b)?"
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Av|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Circle|Cir|Square|Sq|Place|Pl|Terrace|"
    r"Ter|Parkway|Pkwy|Highway|Hwy|Way|Trail|Trl|Crescent|Cres|Close|Gardens|Grove|Mews|Alley|Plaza|Turnpike|Tpke)"
)
_OF = r"(?: (?:de|du|des|del|della|delle|dei|di|da|do|dos|das|la|le|les|los|las|y|e|al|el|van|der|den)){0,3}"
_NAMES = r"(?: (?:[dDlL]')?[A-Z][A-Za-z'.-]{1,24}){1,4}"
_ADDRESSES = (
    # 1600 Pennsylvania Avenue NW, Washington, DC 20500
    r"\b\d{1,6}[A-Z]?(?:-\d{1,5}| 1/2)? (?:[NSEW]{1,2}\.? |North |South |East |West )?"
    rf"(?:(?:[A-Z][A-Za-z'.-]{{1,24}}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,4}}{_STREET}\b\.?(?: [NSEW]{{1,2}}\b)?" + _APARTMENT + _TOWN,
    # 254 Damvergi Apt. 12; Bygget 91, Suite 913
    rf"\b\d{{1,6}}(?: \d{{1,5}})?{_NAMES}(?: \d{{1,5}}[a-zA-Z]?)?,?\s{{1,4}}(?:Apt|Apartment|Suite|Ste)\.? ?#?\d{{1,5}}\b" + _TOWN,
    rf"\b[A-Z][A-Za-z.'-]{{1,24}}{_NAMES} \d{{1,5}}[a-zA-Z]?,?\s{{1,4}}(?:Apt|Apartment|Suite|Ste)\.? ?#?\d{{1,5}}\b" + _TOWN,
    # PSC 2721, Box 8637, APO AA 06259
    r"\b(?:PSC|Unit|CMR) \d{1,5},? Box \d{1,5},?\s{1,4}(?:APO|FPO|DPO),? (?:AA|AE|AP) \d{5}\b",
    r"\b(?:(?:P\.? ?O\.?|Post Office) ?Box|Postfach|Apartado(?: de [Cc]orreos)?|Casella [Pp]ostale|Caixa [Pp]ostal|Boite [Pp]ostale) \d{1,6}\b" + _TOWN,
    # Hauptstrasse 5, 10115 Berlin; Storgatan 12; Keizersgracht 174
    r"\b(?:[A-Z][a-z'-]{1,20} )?[A-Z][a-z]{1,24}(?:strasse|strase|str\.|weg|platz|allee|gasse|damm|ufer|straat|laan|"
    r"plein|gracht|kade|singel|gatan|vagen|gata|veien|vegen|gade|katu|kuja|polku|utca|ulica) \d{1,4} ?[a-zA-Z]?\b" + _TOWN,
    r"\b[A-Z][a-z]{2,24} (?:Str\.|Strasse|Strase|utca|utja|ut|ter|u\.|korut|ulica|tee|mnt|pst|enparantza|kalea) \d{1,4}\b\.?" + _TOWN,
    # Via Roma 12, 00184 Roma; Calle de Alcalá, 45; ul. Długa 5
    r"\b(?:[Rr]ue|Avenue|Boulevard|Via|Viale|Vicolo|Piazza|Piazzale|Corso|Largo|Calle|C/|Avenida|Avda\.|Av\.|Plaza|Paseo|"
    r"Camino|Carrera|Rua|R\.|Travessa|Praca|Estrada|Rodovia|ul\.|Ul\.|al\.|Al\.|os\.|pl\.|nam\.|ulica)"
    + _OF + _NAMES + r",? (?:n[.o]{0,2} ?)?\d{1,5}[a-zA-Z]?\b" + _TOWN,
    # 12 bis rue de la Paix, 75002 Paris
    r"\b\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|boulevard|place|chemin|impasse|allee|quai|cours|route|square|Rue|Avenue|"
    r"Boulevard|Place|Chemin|Impasse|Allee|Quai)" + _OF + _NAMES + r"\b" + _TOWN,
)  # fmt: skip

_LICENCE_NUMBER = (
    r"\b(?:[A-Z]{1,3}\d{4,14}[A-Z]?|[A-Z]\d{3,4}-\d{3,5}-\d{4,6}(?:-\d{2})?|\d{2}[A-Z]{3}\d{5}|\d{3}[A-Z]{2}\d{4}|\d{7,9}[A-Z]|"
    r"[A-Z]\d{2}-\d{2}-\d{4}|[a-z]\d{6,12}|[A-Z][- ]\d{3}[- ]\d{3}[- ]\d{3}[- ]\d{3}|[A-Z]\d{3}-\d{3}-\d{2}-\d{3}-\d)\b"
)

PATTERNS = (
    Rule("UK_NINO", 0.65, 1.0, Cues("=nino", "national insurance", "=ni", "=ni number"), pattern=r"(?i)\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]\b", valid=check.uk_nino),
    Rule("UK_POSTCODE", 0.5, 0.9, _POSTCODE, pattern=r"\b(?:[A-PR-UWYZ][A-HK-Y]?\d[0-9A-HJKMNPR-Y]?|GIR) \d[ABD-HJLNP-UW-Z]{2}\b", valid=check.uk_postcode),
    Rule("UK_POSTCODE", 0.2, 0.8, _POSTCODE, pattern=r"\b(?:[A-PR-UWYZ][A-HK-Y]?\d[0-9A-HJKMNPR-Y]?|GIR)\d[ABD-HJLNP-UW-Z]{2}\b", valid=check.uk_postcode),
    Rule("UK_DRIVING_LICENCE", 0.8, 1.0, _LICENCE, pattern=r"(?i)\b[A-Z]{1,5}9{0,4}\d{6}[A-Z9]{2}[A-Z0-9][A-Z]{2}\b", valid=check.uk_driving_licence),
    Rule("UK_PASSPORT", 0.05, 0.75, _PASSPORT, pattern=r"\b[A-Z]{2}\d{7}\b"),
    Rule("US_PASSPORT", 0.1, 0.8, _PASSPORT, pattern=r"\b[A-Za-z]\d{8}\b"),
    Rule("US_DRIVER_LICENSE", 0.1, 0.75, _LICENCE, pattern=_LICENCE_NUMBER),
    Rule("US_MBI", _FAIR, 1.0, _MEDICARE, pattern=r"(?i)\b[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d-[AC-HJKMNP-RT-Y]{2}\d\d\b"),
    Rule("US_MBI", 0.5, 1.0, _MEDICARE, pattern=r"(?i)\b[1-9][AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d[AC-HJKMNP-RT-Y][0-9AC-HJKMNP-RT-Y]\d[AC-HJKMNP-RT-Y]{2}\d\d\b"),
    Rule("MEDICAL_LICENSE", _WEAK, 1.0, _DEA, pattern=r"\b[ABCDEFGHJKLMPRSTUX][A-Z9]\d{7}\b", valid=check.us_dea),
    Rule("ES_NIF", 0.55, 1.0, _NIF, pattern=r"\b(?:\d{7,8}|\d{1,2}\.\d{3}\.\d{3})-?[A-HJ-NP-TV-Za-hj-np-tv-z]\b", valid=check.es_nif),
    Rule("ES_NIE", 0.7, 1.0, _NIF, pattern=r"(?i)\b[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]\b", valid=check.es_nie),
    Rule("IT_FISCAL_CODE", _SURE, 1.0, None, pattern=r"(?i)\b[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]\b", valid=check.it_fiscal_code),
    Rule("IT_FISCAL_CODE", 0.55, 0.8, Cues("codice fiscale", "fiscal"), pattern=r"(?i)\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b"),
    Rule("IT_VAT_CODE", 0.3, _SURE, _ITALY_VAT, pattern=r"\b(?:IT)?\d{5}_?\d{3}_?\d{3}\b"),
    Rule("IT_PASSPORT", 0.05, 0.8, _ITALY_PASS, pattern=r"(?i)\b[A-Z]{2}\d{7}\b"),
    Rule("IT_IDENTITY_CARD", 0.3, 0.9, _ITALY_CARD, pattern=r"(?i)\b(?:[A-Z]{2}\d{5}[A-Z]{2}|\d{7}[A-Z]{2}|[A-Z]{2} ?\d{7})\b"),
    Rule("DE_PASSPORT", 0.35, 0.9, _PASSPORT, pattern=r"(?i)\b[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{7}\d\b", valid=check.icao),
    Rule("DE_SOCIAL_SECURITY", 0.8, 1.0, Cues("=rvnr", "rentenversicherung", "sozialversicherung"), pattern=r"(?i)\b\d{8}[A-Z]\d{3}\b", valid=check.de_social_security),
    Rule("DE_HEALTH_INSURANCE", _WEAK, 1.0, _KVNR, pattern=r"(?i)\b[A-Z]\d{9}\b", valid=check.de_health_insurance),
    Rule("FI_PERSONAL_IDENTITY_CODE", 0.9, 1.0, Cues("=hetu", "henkilötunnus", "personbeteckning"), pattern=r"\b\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]\b", valid=check.fi_identity, raw=True),
    Rule("SG_NRIC_FIN", 0.8, 1.0, Cues("=nric", "=fin"), pattern=r"(?i)\b[STFGM]\d{7}[A-Z]\b", valid=check.sg_nric),
    Rule("SG_UEN", 0.2, 0.9, _UEN, pattern=r"\b(?:\d{8,9}[A-Z]|[TSR]\d{2}[A-Z]{2}\d{4}[A-Z])\b"),
    Rule("IN_PAN", _FAIR, 1.0, Cues("permanent account", "=pan", "income tax"), pattern=r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b"),
    Rule("IN_GSTIN", 0.9, 1.0, Cues("=gstin", "=gst"), pattern=r"\b\d{2}[A-Z]{5}\d{4}[A-Z][1-9A-Z]Z[0-9A-Z]\b", valid=check.in_gstin),
    Rule("IN_GSTIN", 0.5, 1.0, Cues("=gstin", "=gst"), pattern=r"\b(?:0[1-9]|[12]\d|3[0-7])[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z][1-9A-Z]Z[0-9A-Z]\b"),
    Rule("IN_VOTER", 0.2, 0.9, _VOTER, pattern=r"(?i)\b[A-Z]{3}\d{7}\b"),
    Rule("IN_VEHICLE_REGISTRATION", 0.35, 0.9, _VEHICLE, pattern=r"\b[A-Z]{2}[ -]?\d{1,2}[ -]?[A-Z]{1,3}[ -]?\d{4}\b", valid=check.in_vehicle),
    Rule("IN_PASSPORT", 0.1, 0.8, _PASSPORT, pattern=r"(?i)\b[A-PR-WY][1-9]\d ?\d{4}[1-9]\b"),
    Rule("KR_PASSPORT", 0.6, 1.0, _PASSPORT, pattern=r"(?i)\b[MSROD]\d{3}[A-Z]\d{4}\b"),
    Rule("KR_PASSPORT", 0.1, 0.9, _PASSPORT, pattern=r"(?i)\b[MSROD]\d{8}\b"),
    Rule("CN_RESIDENT_ID", 0.9, 1.0, None, pattern=r"\b[1-8]\d{16}[0-9Xx]\b", valid=check.cn_resident),
    Rule("MX_CURP", 0.9, 1.0, None, pattern=r"\b[A-Z][AEIOUX][A-Z]{2}\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[HMX][A-Z]{2}[B-DF-HJ-NP-TV-Z]{3}[A-Z0-9]\d\b"),
    Rule("CRYPTO", _SURE, 1.0, None, pattern=r"\b[13][1-9A-HJ-NP-Za-km-z]{25,34}\b|\bbc1[a-z0-9]{25,87}\b|\bBC1[A-Z0-9]{25,87}\b", valid=check.bitcoin, raw=True),
    Rule("CRYPTO", _FAIR, 0.9, Cues("=eth", "ethereum", "wallet", "=usdt", "=erc20", "address"), pattern=r"\b0x[0-9a-fA-F]{40}\b", valid=check.ethereum, raw=True),
    Rule("IP_ADDRESS", 0.8, 0.95, IP_WORDS, pattern=r"\b(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\b", raw=True),
    Rule("IP_ADDRESS", 0.8, 0.95, IP_WORDS, pattern=r"[0-9A-Fa-f:]{0,5}:[0-9A-Fa-f:]{1,38}(?:\.\d{1,3}){0,3}(?:%[A-Za-z0-9]{1,15})?", valid=check.ipv6, raw=True),
    Rule("MAC_ADDRESS", 0.85, 1.0, Cues("=mac", "physical address", "hardware address", "ethernet"), pattern=r"\b(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})\b", valid=check.mac_address, raw=True),
    Rule("DATE_OF_BIRTH", 0.1, 0.9, BIRTH, pattern=DATE),
    Rule("DATE_OF_BIRTH", 0.05, 0.8, BIRTH, pattern=r"\b(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b"),
    Rule("DATE_TIME", 0.8, 0.9, None, pattern=DATE),
    Rule("DATE_TIME", 0.6, 0.7, None, pattern=_LOOSE_DATE),
    Rule("AGE", 0.7, 0.8, None, pattern=r"(?i)\b(1[0-2]\d|\d{1,2})[ -]?(?:years?[ -]old|yrs?[ -]old|y/o|yo\b)"),
    Rule("AGE", 0.65, 0.8, None, pattern=r"(?i)\b(?:aged|age of|age is|age[\"']?:|turned|turn|turning)[ \"']{1,3}(1[0-2]\d|[1-9]\d?)\b"),
    Rule("ZIP_CODE", 0.1, 0.7, _ZIP, pattern=r"\b(?:\d{4} ?[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d|[A-Z]{1,2}-?\d{4,5})\b"),
    Rule("URL", 0.9, 0.9, None, pattern=r"(?i)\bhttps?://[^\s<>\"'`{}|\\^]+|\bwww\.[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/[^\s<>\"'`{}|\\^]*)?"),
    Rule("URL", 0.55, 0.55, None, pattern=r"(?i)\b[a-z0-9][a-z0-9-]+\.(?:[a-z0-9-]+\.)*(?:com|org|net|edu|gov|io|co|info|biz|dev|app|ai|de|fr|uk|eu|nl|it|es|pl|se|no|dk|fi|ch|at|be|cz|hu|pt|ie|il|in|jp|kr|cn|br|mx|ca|au|nz|us|ru|tv|me)\b(?:/[^\s<>\"'`{}|\\^]*)?"),
    *(Rule("STREET_ADDRESS", 0.65, 0.8, None, pattern=pattern) for pattern in _ADDRESSES),
)  # fmt: skip
