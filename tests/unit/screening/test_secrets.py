"""Which secrets are found, and what only looks like one. Every key here is made when the test runs."""

from __future__ import annotations

import base64
import random
import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hard_negatives import MAKERS, hard_negatives
from gateway.screening.secrets import placeholder, scan
from tests.support.effort import Effort, least_effort

_LETTERS = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_UPPER = string.ascii_uppercase + string.digits


def made(size: int, alphabet: str = _LETTERS) -> str:
    """Random characters, among them a digit and, where there are any, letters of both cases."""
    rng = random.Random(f"{size}{alphabet}")
    while True:
        value = "".join(rng.choices(alphabet, k=size))
        if any(c.isdigit() for c in value) and any(c.isalpha() for c in value):
            return value


def found(text: str) -> list[tuple[str, str]]:
    return [(f.type, text[f.start : f.end]) for f in scan(text)]


URL = _LETTERS + "-_"
KEYS = [
    ("OPENAI_API_KEY", "sk-proj-" + made(74) + "T3BlbkFJ" + made(74)),
    ("OPENAI_API_KEY", "sk-" + made(20) + "T3BlbkFJ" + made(20)),
    ("OPENAI_API_KEY", "sk-svcacct-" + made(60)),
    ("ANTHROPIC_API_KEY", "sk-ant-api03-" + made(93) + "AA"),
    ("ANTHROPIC_API_KEY", "sk-ant-admin01-" + made(93) + "AA"),
    ("MODEL_API_KEY", "sk-or-v1-" + made(64, _HEX)),
    ("MODEL_API_KEY", "gsk_" + made(52)),
    ("MODEL_API_KEY", "xai-" + made(80)),
    ("MODEL_API_KEY", "pplx-" + made(48)),
    ("HUGGINGFACE_TOKEN", "hf_" + made(34)),
    ("AWS_ACCESS_KEY", "AKIA" + made(16, _UPPER)),
    ("AWS_ACCESS_KEY", "ASIA" + made(16, _UPPER)),
    ("GCP_API_KEY", "AIza" + made(35)),
    ("GCP_OAUTH_SECRET", "GOCSPX-" + made(28)),
    ("GCP_OAUTH_SECRET", "ya29." + made(60)),
    ("AZURE_CLIENT_SECRET", "aB3" + "8Q~" + made(34)),
    ("DIGITALOCEAN_TOKEN", "dop_v1_" + made(64, _HEX)),
    ("CLOUDFLARE_KEY", "v1.0-" + made(24, _HEX) + "-" + made(146, _HEX)),
    ("DATABRICKS_TOKEN", "dapi" + made(32, _HEX)),
    ("VAULT_TOKEN", "hvs." + made(90)),
    ("GITHUB_TOKEN", "ghp_" + made(36)),
    ("GITHUB_TOKEN", "github_pat_" + made(22) + "_" + made(59)),
    ("GITLAB_TOKEN", "glpat-" + made(20)),
    ("ATLASSIAN_TOKEN", "ATATT3" + made(180)),
    ("NPM_TOKEN", "npm_" + made(36)),
    ("PYPI_TOKEN", "pypi-AgEIcHlwaS5vcmc" + made(70)),
    ("DOCKER_TOKEN", "dckr_pat_" + made(27)),
    ("SENTRY_TOKEN", "sntryu_" + made(64, _HEX)),
    ("GRAFANA_TOKEN", "glsa_" + made(32) + "_" + made(8, _HEX)),
    ("SLACK_TOKEN", "xoxb-731465298012-2364535789652-" + made(24)),
    ("SLACK_APP_TOKEN", "xapp-1-A052FGTS2DL-5171572773297-" + made(64, _HEX)),
    ("DISCORD_TOKEN", "M" + made(23) + "." + made(6) + "." + made(38)),
    ("TELEGRAM_TOKEN", "731465298:AA" + made(33)),
    ("STRIPE_KEY", "sk_live_" + made(24)),
    ("STRIPE_KEY", "whsec_" + made(32)),
    ("SHOPIFY_TOKEN", "shpat_" + made(32, _HEX)),
    ("TWILIO_KEY", "SK" + made(32, _HEX)),
    ("SENDGRID_KEY", "SG." + made(22) + "." + made(43)),
    ("MAILGUN_KEY", "key-" + made(32, _HEX)),
    ("MAILCHIMP_KEY", made(32, _HEX) + "-us18"),
    ("NOTION_TOKEN", "ntn_73146529801" + made(35)),
    ("AIRTABLE_TOKEN", "pat" + made(14) + "." + made(64, _HEX)),
    ("NEW_RELIC_KEY", "NRAK-" + made(27, _UPPER)),
    ("JWT", "eyJ" + made(30) + ".eyJ" + made(60) + "." + made(43)),
]  # fmt: skip
AROUND = (
    "{}",
    "my key is {}.",
    'const key = "{}";',
    "curl -H 'x: {}' https://example.org",
    "`{}`",
    "日本語{} é",
    "({})",
    "a,{},b",
)


@pytest.mark.parametrize(("type_", "key"), KEYS, ids=[f"{t}-{i}" for i, (t, _) in enumerate(KEYS)])
@pytest.mark.parametrize("around", AROUND)
def test_keys_of_a_known_shape_are_found_wherever_they_stand(type_: str, key: str, around: str) -> None:
    text = around.format(key)
    assert (type_, key) in found(text)
    assert len(found(text)) == 1


ASSIGNED = [
    ('password = "Tr0ub4dor&3"', "PASSWORD", "Tr0ub4dor&3"),
    ("The password is Summer2031!", "PASSWORD", "Summer2031"),
    ("DB_PASSWORD=q8Xv!2mL", "PASSWORD", "q8Xv!2mL"),
    ("passwort: f8-Kz9q", "PASSWORD", "f8-Kz9q"),
    (f'api_key: "{made(32)}"', "GENERIC_SECRET", made(32)),
    (f"export SERVICE_TOKEN={made(40, _HEX)}", "GENERIC_SECRET", made(40, _HEX)),
    (f'{{"client_secret": "{made(40)}"}}', "GENERIC_SECRET", made(40)),
    (f"accessKey := '{made(24)}'", "GENERIC_SECRET", made(24)),
    (f'getenv_or("api_token", "{made(32)}")', "GENERIC_SECRET", made(32)),
    (f"aws_secret_access_key = {made(40)}", "AWS_SECRET_KEY", made(40)),
    ("postgres://app:s3cr3tPw9@db.example.org:5432/x", "URL_PASSWORD", "s3cr3tPw9"),
    ("redis://:q8Xv2mLp@cache:6379/0", "URL_PASSWORD", "q8Xv2mLp"),
    ("curl -u elastic:P@ssw0rd81 https://example.org:9200", "CURL_USER", "elastic:P@ssw0rd81"),
    (f"Authorization: Bearer {made(40)}", "AUTH_HEADER", made(40)),
    ("Authorization: Basic " + base64.b64encode(b"anna:q8Xv2mLp").decode(), "BASIC_AUTH", base64.b64encode(b"anna:q8Xv2mLp").decode()),
    (f"//npm.example.org/:_authToken={made(36)}", "NPMRC_TOKEN", made(36)),
    ("machine example.org login anna password q8Xv2mLp", "NETRC_PASSWORD", "q8Xv2mLp"),
    (f'"private_key_id": "{made(40, _HEX)}"', "GCP_SERVICE_ACCOUNT", made(40, _HEX)),
    (f"DefaultEndpointsProtocol=https;AccountKey={made(86)}==;", "AZURE_STORAGE_KEY", made(86) + "=="),
    (f"client-key-data: {made(60)}", "KUBE_CONFIG_KEY", made(60)),
    (f"https://hooks.slack.com/services/T0ABCDEFG/B0ABCDEFG/{made(24)}", "SLACK_WEBHOOK", f"hooks.slack.com/services/T0ABCDEFG/B0ABCDEFG/{made(24)}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "type_", "value"), ASSIGNED, ids=[f"{t}-{i}" for i, (_, t, _) in enumerate(ASSIGNED)]
)
def test_secrets_of_no_shape_are_found_by_their_name(text: str, type_: str, value: str) -> None:
    assert found(text) == [(type_, value)]


WORD = "Kx7mQ2vRz9TbLw4N"
SAID = [
    f"<password>{WORD}</password>", f"ALTER USER reporting WITH PASSWORD '{WORD}';", f"the database password {WORD} works", f"mot de passe du service est \"{WORD}\"",
    f"jdbc:postgresql://db:5432/orders?user=orders&password={WORD}&ssl=true", f"$ sshpass -p '{WORD}' ssh root@host", f"mysql -u root -p{WORD} shop < dump.sql",
    f"docker login registry.test -u ci -p {WORD}", f"serve --db-password {WORD} --port 80", f"echo 'deploy:{WORD}' | sudo chpasswd", f"smbclient //nas/x -U backup%{WORD}",
    f"# ~/.pgpass\ndb.test:5432:*:ops:{WORD}", f"- name: OKTA_TOKEN\n  value: \"{WORD}\"", f'<add key="ClientSecret" value="{WORD}" />', f"NAME;FASTLY_API_TOKEN;{WORD};2031",
    f"| `DEPLOY_TOKEN` | `{WORD}` | ops |", f'pub const SMTP_PASSWORD: &str = "{WORD}";', f"SECRET_KEY = env('SECRET_KEY', default='{WORD}')", f"gh secret set NPM_TOKEN --env prod --body '{WORD}'",
    f"`{WORD}` - that's the deploy token for staging", f"here is the API key for staging, as promised: {WORD}", f"smtp.login(\"me@host.test\", \"{WORD}\")", f"auth: {{ user: 'bot', pass: '{WORD}' }}",
    f"req.Header.Set(\"Authorization\", \"Bearer {WORD}\")", f"Cookie: lang=de; PHPSESSID={WORD}", f"config set vercel_token {WORD}", f"RABBITMQ_DEFAULT_PASS={WORD}",
    f"ConvertTo-SecureString '{WORD}' -AsPlainText -Force", f"admin:$apr1$LISVOFuf${WORD}abcdef:x", f"client_secret = \"w__{WORD}\"",
    f'{{"selector": "#password", "text": "{WORD}"}}',
]  # fmt: skip


@pytest.mark.parametrize("text", SAID, ids=range(len(SAID)))
def test_secrets_are_found_however_they_are_said(text: str) -> None:
    assert any(WORD in value for _, value in found(text)), found(text)


SHAPED = [
    ("AWS_SECRET_KEY", "AKIA" + made(16, _UPPER) + "," + made(40)), ("GCP_OAUTH_SECRET", "1//0" + made(40)), ("AZURE_DEVOPS_TOKEN", "AZURE_DEVOPS_PAT: " + made(52, "abcdefghijklmnopqrstuvwxyz234567")),
    ("CONTENTFUL_TOKEN", "CFPAT-" + made(43)), ("CRATES_TOKEN", "cio" + made(32)), ("SONAR_TOKEN", "sqp_" + made(40, _HEX)), ("GRAFANA_TOKEN", "eyJrIjoi" + made(60)),
    ("TELEGRAM_TOKEN", "https://api.telegram.org/bot123456789:AA" + made(33) + "/getMe"), ("TWILIO_KEY", 'Client("AC' + made(32, _HEX) + '", "' + made(32, _HEX) + '")'),
    ("BRAINTREE_TOKEN", "access_token$production$" + made(16, "0123456789abcdefghij") + "$" + made(32, _HEX)), ("HUBSPOT_TOKEN", "pat-eu1-6cf58290-0e51-4aef-bfce-96a3dfda6f4a"),
    ("LINKEDIN_SECRET", "WPL_AP1." + made(16) + "." + made(8) + "=="), ("ASANA_TOKEN", "1/7804937965852251:" + made(32, _HEX)), ("TWITTER_TOKEN", "A" * 22 + made(80)), ("DROPBOX_TOKEN", "sl." + made(130)),
    ("LARAVEL_KEY", "base64:" + made(43) + "="), ("WORDPRESS_SALT", "define('AUTH_KEY',    'G!=@t58_D/5=*s(OpS?9F:2oLh8)^*9a:DOS[)b|eRY^ITK2');"), ("MASTER_KEY", "$ cat config/master.key\n" + made(32, _HEX)),
    ("WIREGUARD_KEY", "PrivateKey = " + made(43) + "="), ("WALLET_KEY", "wallet private key for tests: 0x" + made(64, _HEX)), ("JOIN_TOKEN", "kubeadm join 10.1.2.3:6443 --token axd83k.njg9k1dqop3cq0s0"),
    ("SEED_PHRASE", "seed phrase: employ nose shadow rule water panda crouch pledge suffer surge practice size"), ("AZURE_STORAGE_KEY", '{"keyName": "key1", "value": "' + made(86) + '=="}'),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "text"), SHAPED, ids=[type_ for type_, _ in SHAPED])
def test_keys_of_many_products_are_found_by_their_shape(type_: str, text: str) -> None:
    assert type_ in [kind for kind, _ in found(text)]


BODY = "\n".join(made(64, _LETTERS + "+/") for _ in range(3))


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
def test_a_private_key_is_found_whole(kind: str) -> None:
    key = f"-----BEGIN {kind}PRIVATE KEY-----\n{BODY}\n-----END {kind}PRIVATE KEY-----"
    assert found(f"here:\n{key}\nand on") == [("PRIVATE_KEY", key)]


def test_a_private_key_is_found_in_json_in_base64_and_cut_short() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n"
    escaped = key.replace("\n", "\\n")
    assert found(f'{{"private_key": "{escaped}"}}') == [("PRIVATE_KEY", escaped.removesuffix("\\n"))]
    encoded = base64.b64encode(key.encode()).decode()
    assert found(encoded) == [("PRIVATE_KEY", encoded)]
    cut = key[:120]
    assert found(cut) == [("PRIVATE_KEY", cut)]
    assert found(cut * 3) == [("PRIVATE_KEY", cut)] * 3


def test_a_private_key_with_headers_is_found() -> None:
    key = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123\n\n{BODY}\n-----END RSA PRIVATE KEY-----"
    assert found(key) == [("PRIVATE_KEY", key)]


@pytest.mark.parametrize("text", ["-----BEGIN PRIVATE KEY-----", "Paste what is between -----BEGIN RSA PRIVATE KEY----- and the end.", f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----", f"-----BEGIN CERTIFICATE-----\n{BODY}\n-----END CERTIFICATE-----"])  # fmt: skip
def test_a_key_that_is_spoken_of_or_public_is_none(text: str) -> None:
    assert found(text) == []


def test_every_value_of_a_kubernetes_secret_is_found_and_nothing_else() -> None:
    text = (
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db-credentials\ndata:\n  # as made\n  password: UyFCXCpkJHpEc2I9\n"
        '  user: "YWRtaW5pc3RyYXRvcg=="\n  file: |\n    ZXlKaGRYUm9jeUk2ZXlK\ntype: Opaque\nother:\n  x: YWJjZGVmZ2hpams='
    )
    assert found(text) == [
        ("KUBERNETES_SECRET", "UyFCXCpkJHpEc2I9"),
        ("KUBERNETES_SECRET", "YWRtaW5pc3RyYXRvcg=="),
        ("KUBERNETES_SECRET", "ZXlKaGRYUm9jeUk2ZXlK"),
    ]
    assert found(text.replace("kind: Secret", "kind: ConfigMap").replace("password", "colour")) == []


# -- what must be left alone ---------------------------------------------------------------------------

CLEAN = [
    "password = changeme", "password: <your password>", "password: ${DB_PASSWORD}", "PASSWORD=$PASSWORD", "password: '{{ vault.password }}'",
    "password = os.environ['DB_PASSWORD']", "password = get_password(user1)", "password: str", "password=password123", "password: ********",
    "token = xxxxxxxxxxxxxxxxxxxxxxxx", "api_key = 'YOUR_API_KEY_HERE_1234567'", "secret: example-secret-12345678", "token: String", "token: self.token2",
    "token_count = 1234567890123", "max_tokens: 4096", "the secret is out", "tokenizer = AutoTokenizer.from_pretrained('bert-base-uncased')",
    "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AIzaSyabcdefghijklmnopqrstuvwxyz1234567", "sk-...", "sk-xxxxxxxxxxxxxxxxxxxxxxxx",
    "xoxb-XXXXXXXXXXXX-XXXXXXXXXXXX", "xoxb-not-a-token", "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "https://user:password@example.com", "https://user:${PASS}@example.com",
    "https://example.com:8080/a@b", "Authorization: Bearer <token>", "Authorization: Bearer $TOKEN", "Authorization: Basic {credentials}", 'curl -u "$USER:$PASS" x',
    "curl --user user:pass x", "docker run -u 1000:1000 image", "cache_key: 550e8400-e29b-41d4-a716-446655440000", "primary_key=True", "a == b, key: value",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b", "integrity sha512-" + made(86) + "==", "data:image/png;base64," + made(400), "class=sk-cube-grid sk-folding-cube",
    "import { useAuthToken2 } from './auth'", "password: Uint8Array", "  'CURLOPT_PASSWORD', 'CURLOPT_READDATA2'", "kind: Secret", "ssh-rsa " + "AAAAB3NzaC1yc2EAAAADAQABAAABgQC" + made(60),
]  # fmt: skip


@pytest.mark.parametrize("text", CLEAN, ids=range(len(CLEAN)))
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_no_hard_negative_is_flagged() -> None:
    flagged = {kind: 0 for kind in MAKERS}
    for kind, text in hard_negatives(60):
        flagged[kind] += bool(scan(text))
    assert sum(flagged.values()) <= 0.005 * 60 * len(MAKERS), flagged


@pytest.mark.parametrize("value", ["changeme", "<key>", "xxxxxxxx", "${VAR}", "$VAR", "%VAR%", "{{x}}", "your-key", "EXAMPLEKEY1", "secret", "null", "1234567890", "********", "..."])  # fmt: skip
def test_placeholders_are_known(value: str) -> None:
    assert placeholder(value)


@pytest.mark.parametrize("value", ["q8Xv2mLp", "Tr0ub4dor&3", "Summer2031!"])
def test_passwords_are_no_placeholders(value: str) -> None:
    assert not placeholder(value)


# -- time and strange texts ----------------------------------------------------------------------------


@given(st.text(max_size=200))
@settings(max_examples=150)
def test_any_text_is_scanned_and_findings_lie_in_it_apart(text: str) -> None:
    findings = scan("password: " + text)
    assert all(a.end <= b.start for a, b in pairwise(findings))
    assert all(
        0 <= f.start < f.end <= len(text) + 10 and f.type.isupper() and f.detector == "secrets"
        for f in findings
    )


HOSTILE = {
    "dotted": "x." * 50_000, "letter": "a" * 100_000, "dash": "-" * 100_000, "space": " " * 100_000, "quote": '"' * 100_000, "base64": made(100_000, _LETTERS + "+/"),
    "url64": made(100_000, URL), "jwt": "eyJaaaaaaaaaaaaa." * 6_000, "pem": "-----BEGIN PRIVATE KEY-----" * 3_700, "password": "password=" * 11_000, "token": "token " * 16_000,
    "userinfo": "http://a:bbbb@" * 7_000, "data": "kind: secret\ndata:\n a: aaaaaaaaaaaa\n" * 2_900, "header": "authorization: bearer " * 4_700, "aws": "aws_secret_key" * 7_000,
    "deep": "kind: Secret\n" + "".join(" " * i + "data:\n" for i in range(440)),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_take_time_by_their_length_alone(kind: str) -> None:
    assert least_effort(lambda: scan(HOSTILE[kind]), 8, enough=0.25) < 0.25


DENSE = (
    "Ypwd:<pwd::=", "é5<${pwd:=:=:=", "-u ispwd:Xxoxb- ", "password=q8Xv2mLp ", "token: q8Xv2mLpq8Xv2mLp\n", "7#AccountKey=bAA&sig=a:b@0 -u ",
    "authorization: q8Xv2mLp9aTeWs7Zq ",
)  # fmt: skip
"""The slowest of some 10,000 motifs out of what the rules look for; each fills 20 KB."""


@pytest.mark.parametrize("motif", DENSE)
def test_texts_of_nothing_but_candidates_take_a_few_milliseconds_a_kilobyte(motif: str) -> None:
    text = (motif * 20_000)[:20_000]
    assert least_effort(lambda: scan(text), 8, enough=0.06) < 0.06


def test_a_thousand_cut_off_private_keys_take_time_by_their_length_alone() -> None:
    text = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n" * 450
    with Effort() as effort:
        assert len(scan(text)) == 450
    assert effort.seconds < 0.5
