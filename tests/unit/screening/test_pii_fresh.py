"""Personal data in everyday surroundings that no rule was written from, and what stands there and is none.

`{name}` in a text is a value of that form, made anew with right check digits; what is looked for is that
value under its type. The figures are floors for the whole, not for one text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial

from gateway.screening import pii
from gateway.screening import pii_validators as check

_SLOT = re.compile(r"\{([a-z]+)(?::([^}]*))?\}")


def _anything(value: str) -> bool:
    return True


# By name: the type, the form, and the check. In a form `n` is a digit, `L` a capital, `h` a hexadecimal digit, and `~`
# the separator that a slot names, as in `{ssn:-}`.
_FORMS: dict[str, tuple[str, str, Callable[[str], bool]]] = {
    "visa": ("CREDIT_CARD", "4nnn~nnnn~nnnn~nnnn", check.credit_card),
    "card": ("CREDIT_CARD", "5nnn~nnnn~nnnn~nnnn", check.credit_card),
    "amex": ("CREDIT_CARD", "37nn~nnnnnn~nnnnn", check.credit_card),
    "ssn": ("US_SSN", "nnn~nn~nnnn", check.us_ssn),
    "ip": ("IP_ADDRESS", "8n.1nn.n.7n", _anything),
    "ipv": ("IP_ADDRESS", "2a02:h1hh:e0hh::1h", _anything),
    "mac": ("MAC_ADDRESS", "hh~hh~hh~hh~hh~hh", _anything),
    "itin": ("US_ITIN", "9nn~nn~nnnn", check.us_itin),
    "npi": ("US_NPI", "1nnnnnnnnn", check.us_npi),
    "aba": ("ABA_ROUTING_NUMBER", "0nnnnnnnn", check.aba_routing),
    "bank": ("US_BANK_NUMBER", "nnnnnnnnnnnn", _anything),
    "uspass": ("US_PASSPORT", "Annnnnnnn", _anything),
    "mbi": ("US_MBI", "4T0n-GWn-KMnn", _anything),
    "dea": ("MEDICAL_LICENSE", "BFnnnnnnn", check.us_dea),
    "sin": ("CA_SIN", "nnn~nnn~nnn", check.ca_sin),
    "curp": ("MX_CURP", "LOPM7n0218MDFPRR0n", _anything),
    "cpf": ("BR_CPF", "nnn.nnn.nnn-nn", check.br_cpf),
    "cpfplain": ("BR_CPF", "nnnnnnnnnnn", check.br_cpf),
    "cnpj": ("BR_CNPJ", "nn.nnn.nnn/0001-nn", check.br_cnpj),
    "nino": ("UK_NINO", "JX~nn~nn~nn~C", check.uk_nino),
    "nhs": ("UK_NHS", "9nn~nnn~nnnn", check.uk_nhs),
    "ukdl": ("UK_DRIVING_LICENCE", "LEE99n0n1nnLL9LL", check.uk_driving_licence),
    "steuer": ("DE_TAX_ID", "nnnnnnnnnnn", check.de_tax_id),
    "rvnr": ("DE_SOCIAL_SECURITY", "651507n5Lnnn", check.de_social_security),
    "nir": ("FR_NIR", "2~8n~07~75~nnn~nnn~nn", check.fr_nir),
    "dni": ("ES_NIF", "nnnnnnnn~L", check.es_nif),
    "nie": ("ES_NIE", "YnnnnnnnL", check.es_nie),
    "cf": ("IT_FISCAL_CODE", "BNCLRA8nD53H501L", check.it_fiscal_code),
    "piva": ("IT_VAT_CODE", "0nnnnnnnnnn", check.it_vat),
    "pesel": ("PL_PESEL", "8n0n1nnnnnn", check.pl_pesel),
    "bsn": ("NL_BSN", "nnnnnnnnn", check.nl_bsn),
    "rrb": ("BE_NATIONAL_NUMBER", "7n.0n.1n-nnn.nn", check.be_national),
    "ahv": ("CH_AHV", "756.nnnn.nnnn.nn", check.ch_ahv),
    "pnr": ("SE_PERSONNUMMER", "197n0n1n-nnnn", check.se_personnummer),
    "fnr": ("NO_FODSELSNUMMER", "1n0n7nnnnnn", check.no_fodselsnummer),
    "cpr": ("DK_CPR", "1n0n7n-nnnn", check.dk_cpr),
    "hetu": ("FI_PERSONAL_IDENTITY_CODE", "1n0n7n-52nL", check.fi_identity),
    "tckn": ("TR_TCKN", "nnnnnnnnnnn", check.tr_tckn),
    "abn": ("AU_ABN", "nn nnn nnn nnn", check.au_abn),
    "tfn": ("AU_TFN", "nnn~nnn~nnn", check.au_tfn),
    "medicare": ("AU_MEDICARE", "2nnn nnnnn 1", check.au_medicare),
    "aadhaar": ("IN_AADHAAR", "5nnn~nnnn~nnnn", check.in_aadhaar),
    "pan": ("IN_PAN", "LLLPLnnnnL", _anything),
    "rrn": ("KR_RRN", "8n0n1n-2nnnnnn", check.kr_rrn),
    "cn": ("CN_RESIDENT_ID", "3205061988101nnnnn", check.cn_resident),
    "nric": ("SG_NRIC_FIN", "SnnnnnnnL", check.sg_nric),
    "thai": ("TH_TNIN", "3-nnnn-nnnnn-nn-n", check.th_national),
    "rsa": ("ZA_ID_NUMBER", "8n0n1nnnnn0nn", check.za_identity),
    "eth": ("CRYPTO", "0x" + "h" * 40, _anything),
    "birth": ("DATE_OF_BIRTH", "", _anything),
    "tel": ("PHONE_NUMBER", "", _anything),
}
_IBANS = {
    "DE": "nnnnnnnnnnnnnnnnnn", "AT": "nnnnnnnnnnnnnnnn", "BE": "nnnnnnnnnnnn", "ES": "nnnnnnnnnnnnnnnnnnnn", "NL": "ABNAnnnnnnnnnn",
    "FR": "nnnnnnnnnnnnnnnnnnnnnnn", "GB": "BARCnnnnnnnnnnnnnn", "PL": "nnnnnnnnnnnnnnnnnnnnnnnn", "CH": "nnnnnnnnnnnnnnnnn",
    "IT": "Xnnnnnnnnnnnnnnnnnnnnnn", "SE": "nnnnnnnnnnnnnnnnnnnn", "NO": "nnnnnnnnnnn", "DK": "nnnnnnnnnnnnnn", "PT": "nnnnnnnnnnnnnnnnnnnnn",
    "IE": "AIBKnnnnnnnnnnnnnn", "SA": "nnnnnnnnnnnnnnnnnnnn",
}  # fmt: skip
_MAILS = (
    "j.doe@corp.example.com",
    "maria_lopez@uni-mainz.de",
    "k-tanaka88@mail.co.jp",
    "anne.marie+news@gmail.com",
    "x@firma.museum",
)
_ALPHABETS = {"n": "0123456789", "L": "ABCDEFGHJKLMNPQRSTUVWXYZ", "h": "0123456789abcdef"}


def _drawn(rng: random.Random, form: str) -> str:
    return "".join(rng.choice(_ALPHABETS.get(sign, sign)) for sign in form)


def _value(rng: random.Random, name: str, detail: str) -> tuple[str, str]:
    """The type and a value of one form, drawn until its check holds."""
    if name == "mail":
        return "EMAIL_ADDRESS", rng.choice(_MAILS)
    if name == "iban":
        bban = _drawn(rng, _IBANS[detail[:2]])
        whole = next(value for i in range(2, 99) if check.iban(value := f"{detail[:2]}{i:02d}{bban}"))
        return "IBAN_CODE", detail[2:].join(whole[i : i + 4] for i in range(0, len(whole), 4))
    type_, form, valid = _FORMS[name]
    while True:
        value = _drawn(rng, form.replace("~", detail) or detail)
        if valid(value if name == "hetu" else check.compact(value)):
            return type_, value


POSITIVE = """
{"customer": {"name": "B. Osei", "pan": "{card:}", "exp": "11/29"}}
Paid with Visa {card: } on file, thanks!
charge failed for {card:-}, please retry
amount=120.00&currency=EUR&cardnumber={card:}&cvv=113
Bitte belasten Sie meine Kreditkarte {card: } (gültig bis 08/30).
AmEx {amex: } for the hotel
INFO  pay.service: tokenising {card:} took 12 ms
card_no;holder¶{card:};"MEYER, T"
Mi tarjeta es {card: }.
<CardNumber>{card:}</CardNumber>
| 3 | {card:-} | approved |
信用卡号：{card: }
const TEST_USER = { cc: '{card:}' };
Überweisung an {iban:DE } bis Freitag
IBAN: {iban:FR }
"iban":"{iban:NL}"
Zahlbar auf {iban:AT}, Verwendungszweck Miete
cuenta {iban:ES-} a nombre de Ruiz
wire to {iban:GB } (Barclays)
Rachunek: {iban:PL }
beneficiary,{iban:CH},CHF,1500.00
Konto {iban:SE }.
kontonr {iban:NO }
({iban:BE })
{iban:IT };{iban:PT}
IBAN={iban:IE}&bic=AIBKIE2D
<iban>{iban:DK}</iban>
رقم الآيبان {iban:SA }
SSN on file: {ssn:-}
"ssn": "{ssn:}"
her social security number, {ssn: }, was leaked
employee_ssn={ssn:-}&dept=4
DOB {birth:04/11/197n} SSN {ssn:-} Sex F
social_security_number,last_name¶{ssn:},Ferris
ssn: '{ssn:.}'
Applicant ITIN {itin:-}
tax id (ITIN): {itin:}
From: Paul <{mail}>
mailto:{mail}?subject=Hi
"email":"{mail}","verified":true
git commit --author="A B <{mail}>"
login failed for user {mail} from {ip}
cc:{mail};bcc:{mail}
{mail},Berlin,2024-01-01
https://x.example.org/unsub?u={mail}&t=1
Schreiben Sie an {mail}.
user='{mail}'
[{mail}](mailto:{mail})
Reply-To:{mail}
Call me: {tel:+1 (415) nnn-nnnn}
Ring {tel:+44 20 7nnn nnnn} after six
UK mobile {tel:07nnn nnnnnn}
{tel:+49 151 nnnnnnnn} (Handy)
Tel.: {tel:030/nnnnnnn}
Tél. {tel:06 nn nn nn nn}
{tel:+33 6 nn nn nn nn}
llámame al {tel:6nn nn nn nn} por la tarde
móvil: {tel:+34 6nn nnn nnn}
cell. {tel:+39 3nn nnn nnnn}
fone: {tel:(11) 9nnnn-nnnn}
WhatsApp {tel:+55 11 9nnnn-nnnn}
手机 {tel:13nnnnnnnnn}
電話番号：{tel:03-nnnn-nnnn}
휴대폰 {tel:010-nnnn-nnnn}
"phone":"{tel:+919nnnnnnnnn}"
mob no. {tel:98nnnnnnnn}
{"to": "{tel:+1nnnnnnnnnn}", "body": "Your code"}
sms to {tel:+4790nnnnnn} queued
phone_number,{tel:2nn-nnn-nnnn}
tel:{tel:+46-8-nnn nnn nn}
Fax {tel:(0nn) nnnn nnnn}
my number is {tel:nnn nnn nnnn}
office {tel:+65 6nnn nnnn}, ask for Lim
contact: {tel:+971 50 nnn nnnn}
Telefon: {tel:0664 nnnnnnn}
tel. {tel:+48 nnn nnn nnn}
Hotline {tel:0800 nnn nnnn}
<a href="tel:{tel:+1-8nn-nnn-nnnn}">call</a>
{tel:+7 (9nn) nnn-nn-nn}
Toll free {tel:1-800-nnn-nnnn}
{tel:+27 82 nnn nnnn} voicemail
Call {tel:nnn.nnn.nnnn} ext 12
ruf mich unter {tel:0176nnnnnnnn} an
bel mij op {tel:06-nnnnnnnn}
Appelez-moi au {tel:06 nn nn nn nn} svp
chiamami al {tel:3nn nnnnnnn}
zadzwoń {tel:6nn nnn nnn}
{tel:(+34) 6nn nnn nnn}
тел. {tel:8 (9nn) nnn-nn-nn}
"mobile_no": "{tel:98nnnnnnnn}",
ph: {tel:4nn nnn nnnn}
dzwoń: {tel:+4860nnnnnnn}
M: {tel:+61 4nn nnn nnn}
(T) {tel:+32 2 nnn nn nn}
puh. {tel:040 nnnnnnn}
http://{ip}:8080/x
connect to {ip}:5432: timeout
src={ip}:51234 dst={ip}:443
ssh admin@{ip}
It came from {ip}.
{visa:.} visa
PAN {visa:}
client {ip} - - [10/Oct/2024:13:55:36 +0000] "GET / HTTP/1.1" 200 12
sshd[812]: Failed password for root from {ip} port 22 ssh2
x-forwarded-for: {ip}, {ip}
"remote_addr":"{ip}"
blocked {ip}/32 for abuse
peer {ipv} is down
http://[{ipv}]:8080/x
host={ip};user=app
{ip}:443 refused
ip,city¶{ip},Oslo
dst={ip} proto=TCP
device {mac::} joined
"mac": "{mac:-}"
ether {mac::} txqueuelen 1000
provider NPI: {npi}
"npi":"{npi}"
ABA routing {aba}, account number {bank}
routing_number: {aba}
Please deposit to checking account {bank}.
Passport No. {uspass}
Medicare ID {mbi}
DEA number {dea}
SIN: {sin: }
social insurance number {sin:-}
CURP {curp}
"curp":"{curp}"
CPF {cpf}
cpf={cpfplain}
Empresa inscrita no CNPJ {cnpj}
National Insurance number: {nino: }
NI no {nino:}
"nino": "{nino:}"
NHS number {nhs: }
patient nhs={nhs:}
driving licence {ukdl}
licence_no,{ukdl},B
Steuer-ID {steuer}
steuerliche Identifikationsnummer: {steuer}
Rentenversicherungsnummer {rvnr}
N° de sécurité sociale : {nir: }
"nir":"{nir:}"
DNI {dni:}
con D.N.I. {dni:-}, vecino de
NIE: {nie}
codice fiscale {cf}
"cf": "{cf}"
P. IVA {piva}
PESEL: {pesel}
nr pesel {pesel},
BSN {bsn}
"bsn": {bsn}
Rijksregisternummer {rrb}
AHV-Nr. {ahv}
"ahv": "{ahv}"
Personnummer: {pnr}
fødselsnr/fødselsnummer {fnr}
CPR-nr. {cpr}
CPR: {cpr}
hetu {hetu}
T.C. Kimlik No {tckn}
ABN {abn}
TFN: {tfn: }
tax file number {tfn:}
Medicare card {medicare}
Aadhaar: {aadhaar: }
aadhaar_no={aadhaar:}
PAN card {pan}
"pan":"{pan}"
주민등록번호 {rrn}
身份证号：{cn}
id_card: {cn}
NRIC {nric}
"nric":"{nric}"
เลขประจำตัวประชาชน {thai}
SA ID number {rsa}
id number: {rsa}
send ETH to {eth}
wallet={eth}
born {birth:197n-08-1n}
DOB: {birth:04/1n/198n}
"date_of_birth":"{birth:197n-08-1n}"
geboren am {birth:1n.03.199n} in Kiel
née le {birth:1n/06/198n}
birthdate={birth:198n/05/1n}
Date of birth: {birth:1n July 197n}
生年月日：{birth:198n/05/1n}
data di nascita {birth:1n/06/198n}
"""

NEGATIVE = """
Order {n:9} was shipped on 2024-06-0{d}
order: {n:16}
Bestellung Nr. {n:10} ist unterwegs
invoice INV-{n:4}-{n:6}
Rechnung {n:8} vom 03.02.2024
commit {h:40}
sha256:{h:64}
md5 = {h:32}
"integrity": "sha512-{b:86}=="
version {n:1}.{n:2}.{n:1}.{n:2}
Chrome/{n:3}.0.{n:4}.{n:3} Safari/537.36
npm install left-pad@1.{n:1}.{n:1}
react@18.{d}.0, vite@5.{d}.{d}
timestamp 17{n:8}
"ts": 17{n:11}
created_at=17{n:8}.{n:6}
2024-0{d}-1{d}T10:2{d}:33.{n:6}Z
lat {n:2}.{n:7}, lon -{n:2}.{n:7}
[{n:2}.{n:6}, {n:2}.{n:6}]
POINT(-{n:2}.{n:5} {n:2}.{n:5})
{h:8}-{h:4}-4{h:3}-a{h:3}-{h:12}
uuid: "{h:8}-{h:4}-4{h:3}-b{h:3}-{h:12}"
ISBN 978-0-{n:3}-{n:5}-{d}
ISBN-10 0-{n:3}-{n:5}-{d}
ISSN {n:4}-{n:4}
doi:10.{n:4}/s{n:5}-0{n:2}-{n:5}-{d}
arXiv:24{n:2}.{n:5}
UPS 1Z{u:6}{n:10}
FedEx tracking {n:12}
DHL tracking number JD{n:18}
USPS 9400 1{n:3} {n:4} {n:4} {n:4} {n:2}
SKU {u:3}-{n:5}-{u:2}
part no. {n:3}-{n:5}-{n:2}
serial: {u:4}{n:8}
MAX_INT = 2147483647; LIMIT = {n:9}
seed={n:10}
np.random.seed({n:8})
#define MAGIC 0x{h:8}
color: #{h:6}; width: {n:3}px
data:image/png;base64,iVBORw0KGgo{b:300}
"resolved": "https://npm.example.org/x/-/x-1.{d}.{d}.tgz#{h:40}"
{n:5} {n:5} {n:5} {n:5}
{n:3},{n:3},{n:3} inhabitants
price: ${n:1},{n:3}.{n:2}
total {n:4}.{n:2} EUR
epoch 1{d}/90 loss 0.{n:6} lr 1e-{d}
[1{d}:2{d}:3{d}] tick {n:6}
pid {n:5} tid {n:7}
took {n:4}ms for {n:6} rows
RFC 79{n:2} section {d}.{d}.{d}.{d}
GET /api/v1/items/{n:10} 404
https://shop.example.org/p/{n:9}?ref={n:7}
/var/log/app-202406{n:2}.log.{d}
job {n:8} finished with code {d}
ticket #{n:7} closed
bug {n:6}, see issue {n:5}
arn:aws:iam::{n:12}:role/Admin
i-0{h:16} in us-east-1a
subnet-{h:8} sg-{h:17}
chr7:{n:8}-{n:8}
NM_{n:6}.{d} rs{n:8}
CAS {n:4}-{n:2}-{d}
EAN {n:13}
GTIN: {n:14}
const PI = 3.{n:15};
0.{n:16}
-{n:1}.{n:12}e-0{d}
Mon Jun  {d} 10:2{d}:3{d} 2024
since 19{n:2}-20{n:2}
FY2023-24 up {n:2}.{d} %
page {n:3} of {n:4}
resolution 1920x1080, 3840x2160 @ 60
bitrate {n:7} bps
score 3-{d}, 2-{d}, 6-{d}
ratio {n:2}:{n:2}:{n:2}
A{n:1} B{n:2} C{n:3}
std::map<int, ns{d}::T> m;
key::value::other
git@github.com:org/repo.git
user@localhost
@decorator.method
img@2x.png and icon@3x.jpg
127.0.0.1:{n:4}
0.0.0.0/0 and 255.255.255.0
v{n:2}.{n:2}.{n:2}.{n:2}
OID 1.3.6.1.4.1.{n:5}.{d}
cuda 12.{d}.{n:3} driver 5{n:2}.{n:2}.{n:2}
flight LH{n:4} seat 2{d}A
booking reference {u:6}
confirmation {n:10}
case no. {d}:2{d}-cv-0{n:4}
{n:2}/{n:2} passed, {n:3} skipped
"id": {n:12}
"user_id": {n:9}
id={n:10}&page={d}
transaction id {n:15}
request_id: {h:16}
trace {h:32} span {h:16}
AWS::EC2::Instance a1b2::c3
12:3{d}:4{d}.{n:3}
{n:4}{n:4}{n:4}{n:5}
row {n:3}: {n:4} {n:4} {n:4} {n:4} {n:4}
"bytes": {n:9}, "size": {n:11}
ETag: "{h:32}"
Content-Length: {n:8}
"""

_FILL: dict[str, str] = {"n": "0123456789", "h": "0123456789abcdef", "u": "ABCDEFGHJKLMNPQRSTUVWXYZ", "b": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", "d": "123456789"}  # fmt: skip


def positives() -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Texts with the types and places of their values."""
    for number, line in enumerate(filter(None, POSITIVE.split("\n"))):
        yield _filled(random.Random(number), line.replace("¶", "\n"))


def _filled(rng: random.Random, line: str) -> tuple[str, list[tuple[str, int, int]]]:
    text, spans, at = "", [], 0
    for slot in _SLOT.finditer(line):
        text += line[at : slot.start()]
        type_, value = _value(rng, slot.group(1), slot.group(2) or "")
        spans.append((type_, len(text), len(text) + len(value)))
        text, at = text + value, slot.end()
    return text + line[at:], spans


def negatives(each: int = 3) -> Iterator[str]:
    for number, line in enumerate(filter(None, NEGATIVE.split("\n"))):
        for turn in range(each):
            yield _SLOT.sub(partial(_random, random.Random(f"{number} {turn}")), line)


def _random(rng: random.Random, slot: re.Match[str]) -> str:
    return "".join(rng.choices(_FILL[slot.group(1)], k=int(slot.group(2) or 1)))


def test_of_values_in_everyday_surroundings_hardly_one_is_missed() -> None:
    missed, wrong, found = [], [], 0
    for text, spans in positives():
        findings = pii.scan(text)
        for type_, start, end in spans:
            hit = any(f.type == type_ and f.start < end and start < f.end for f in findings)
            found += hit
            missed += [] if hit else [(text, type_, text[start:end])]
        for f in findings:
            if not any(f.start < end and start < f.end for _, start, end in spans):
                wrong.append((text, f.type, text[f.start : f.end]))
    precision, recall = found / (found + len(wrong)), found / (found + len(missed))
    f2 = 5 * precision * recall / (4 * precision + recall)
    assert f2 >= 0.985, (round(f2, 3), missed, wrong)


def test_of_texts_without_any_at_most_one_in_a_hundred_is_flagged() -> None:
    texts = list(negatives())
    flagged = [(text, f.type) for text in texts for f in pii.scan(text)]
    assert len(flagged) <= 0.01 * len(texts), flagged
