"""Secrets in everyday surroundings that no rule was written from, and what stands there and is none.

`{form}` in a text is drawn anew: `x` is a letter or digit, `h` a hexadecimal digit, `U` a capital or digit, `n` a digit,
`b` base64, and everything else is itself. No key is written down here. The figures are floors for the whole.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator

from gateway.screening import secrets

_SLOT = re.compile(r"\{(?:([^{}|]*)\|)?([xhUnb]?)(\d*)\}")
_ALPHABETS = {
    "x": string.ascii_letters + string.digits,
    "h": "0123456789abcdef",
    "U": string.ascii_uppercase + string.digits,
    "n": string.digits,
    "b": string.ascii_letters + string.digits + "+/",
}


def _drawn(rng: random.Random, slot: re.Match[str]) -> str:
    start, alphabet, size = slot.group(1) or "", slot.group(2), int(slot.group(3) or 0)
    return start + "".join(rng.choices(_ALPHABETS.get(alphabet, "x"), k=size))


POSITIVE = """
OPENAI_API_KEY={sk-proj-|x64}
client = OpenAI(api_key="{sk-|x48}")
Here is my key: {sk-ant-api03-|x95}, don't share it
x-api-key: {sk-ant-api03-|x95}
{"openrouter": "{sk-or-v1-|h64}"}
GROQ_API_KEY='{gsk_|x52}'
export HF_TOKEN={hf_|x34}
replicate {r8_|x37}
aws_access_key_id = {AKIA|U16}
AccessKeyId: {ASIA|U16}
aws configure set aws_secret_access_key {b40}
AWS_SECRET_ACCESS_KEY="{b40}"
"SecretAccessKey": "{b40}"
https://maps.googleapis.com/maps/api/js?key={AIza|x35}
firebase: { apiKey: "{AIza|x35}" }
client_secret: {GOCSPX-|x28}
Authorization: Bearer {ya29.|x80}
git clone https://{ghp_|x36}@github.com/acme/app.git
GITHUB_TOKEN: {ghs_|x36}
token {github_pat_|x82}
PRIVATE-TOKEN: {glpat-|x20}
//npm.example.org/:_authToken={npm_|x36}
twine upload -p {pypi-AgEIcHlwaS5vcmc|x80}
docker login -p {dckr_pat_|x27}
SLACK_BOT_TOKEN={xoxb-301298471123-3098112245871-|x24}
curl -X POST https://{hooks.slack.com/services/T0|U9}/B0{U9}/{x24}
stripe.api_key = "{sk_live_|x24}"
STRIPE_WEBHOOK={whsec_|x32}
SENDGRID={SG.|x22}.{x43}
TWILIO_KEY {SK|h32}
mailgun: {key-|h32}
{h32}-us14
bot token {n9}:AA{x33}
notion {ntn_|n11}{x35}
PINECONE={pcsk_|x60}
DIGITALOCEAN_TOKEN={dop_v1_|h64}
VAULT_TOKEN={hvs.|x90}
DATABRICKS_TOKEN={dapi|h32}
SENTRY_AUTH_TOKEN={sntryu_|h64}
GRAFANA={glsa_|x32}_{h8}
lin: {lin_api_|x40}
airtable {pat|x14}.{h64}
shopify {shpat_|h32}
planetscale {pscale_tkn_|x43}
xkey {xkeysib-|h64}-{x16}
tskey: {tskey-auth-|x12}-{x32}
figma {figd_|x40}
postman {PMAK-|h24}-{h34}
new relic {NRAK-|U27}
password: "{Gr7!|x9}"
"db_password": "{x14}#4q"
DB_PASS: hunter; PASSWORD={q4Z|x10}
mysql -u root --password={v9K|x11}
postgres://svc:{x16}7q@db.prod.internal:5432/app
mongodb+srv://admin:{x14}9z@cluster0.ab12c.mongodb.net/x
redis://:{x20}4@10.0.0.4:6379
amqp://app:{x12}3@rabbit:5672/
SQLALCHEMY_DATABASE_URI = "mysql+pymysql://app:{x12}8@db/x"
ftp://deploy:{x10}5!@ftp.example.net
api_key: {x32}
apiKey: '{h40}'
"access_token": "{x40}"
SECRET_KEY = '{x50}'
client-secret={x36}
auth_token={h64}
X-Auth-Token: {h32}
Authorization: token {h40}
Authorization: Basic {YWRtaW46|x24}
jwt={eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.|x43}
curl -u admin:{x12}7 https://es.example.net
curl -H "api-key: {x32}" https://x.example.net
AccountKey={b86}==;EndpointSuffix=core.windows.net
?sv=2022-11-02&sig={b43}%3D
private_key = "-----BEGIN RSA PRIVATE KEY-----\\n{b64}\\n{b64}\\n-----END RSA PRIVATE KEY-----"
-----BEGIN OPENSSH PRIVATE KEY-----¶{b70}¶{b70}¶-----END OPENSSH PRIVATE KEY-----
the admin password is {Kx9|x8}
mot de passe : {Kx9|x8}!
Passwort: {Zt4|x8}
contraseña: {Zt4|x8}
my api token is {x40}
encryption_key: "{b43}="
webhook_secret = "{x32}"
signing-key: {h64}
{"type":"service_account","private_key_id":"{h40}"}
machine api.example.net login bob password {x14}3
spring.datasource.password={x12}4
<add key="DbPassword" value="{x12}4" />
environment: - JWT_SECRET={x40}
terraform { token = "{x14}.atlasv1.{x60}" }
ENV NPM_TOKEN {npm_|x36}
"""

NEGATIVE = """
commit {h40}
sha256:{h64}
md5: {h32}
ETag: "{h32}"
"integrity": "sha512-{b86}=="
data:image/png;base64,iVBORw0KGgo{b300}
<img src="data:image/jpeg;base64,/9j/4AAQ{b200}">
ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ{b120} me@host
-----BEGIN CERTIFICATE-----¶{b64}¶{b64}¶-----END CERTIFICATE-----
-----BEGIN PUBLIC KEY-----¶{b64}¶-----END PUBLIC KEY-----
{h8}-{h4}-4{h3}-a{h3}-{h12}
"request_id": "{h8}-{h4}-4{h3}-b{h3}-{h12}"
trace_id={h32} span_id={h16}
docker pull nginx@sha256:{h64}
"resolved": "https://npm.example.org/a/-/a-1.2.3.tgz#{h40}"
h1:{b43}= // go.sum
OPENAI_API_KEY=sk-...
OPENAI_API_KEY=<your-openai-key>
export ANTHROPIC_API_KEY="your-api-key-here"
api_key = os.environ["OPENAI_API_KEY"]
apiKey: process.env.API_KEY_PROD
token: ${{ secrets.GITHUB_TOKEN }}
password: {{ vault_db_password }}
PASSWORD=$DB_PASSWORD_PROD
password: ********
password = getpass.getpass()
password=None
"password": "string"
password: changeme123
POSTGRES_PASSWORD=postgres
mysql://root:password@localhost/db
postgres://user:pass@localhost:5432/db
https://user:{x0}@example.com/
AKIAIOSFODNN7EXAMPLE and its secret
xoxb-your-token-here
ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
Authorization: Bearer <access_token>
Authorization: Bearer $TOKEN
curl -u "$USER:$PASS" https://x.example.org
Forgot your password? Reset it within 24 hours.
Passwords must be at least 12 characters long.
The token limit is {n6} tokens.
max_tokens={n4}, total_tokens: {n5}
tokenizer.encode(text_{n3})
const tokenCount = {n7};
next_page_token: null
csrf_token = request.cookies.get("csrftoken2")
secret = Secret.from_name("db-creds-v2")
key: value, primary_key: id_{n4}
keyboard_shortcut=ctrl+shift+{n1}
public_key = "{b0}"
s3://bucket-{n6}/path/{h8}.parquet
arn:aws:secretsmanager:us-east-1:{n12}:secret:prod/db
secretKeyRef: { name: app-secrets, key: db-password }
passwordHash := bcrypt.GenerateFromPassword(pw, {n2})
def verify_password(plain: str, hashed: str) -> bool:
password_confirmation: { type: String, minlength: {n2} }
class TokenExpiredError2(Exception): pass
access_token_expires_in: {n5}
token_type: bearer2, expires_in: {n4}
"token": "test-token"
SECRET_KEY = "dev-not-a-secret"
api_key: "insert-key-here-please-123"
the password is case sensitive
Session token expired after {n4} seconds
tracking number {U18}
serial: {U12}
order {n16}
license: MIT OR Apache-2.0
auth: { method: oauth2, scope: read_all }
client_id={h20}
build {h7} deployed to node-{n2}-{h6}
cache-key: linux-node-{n2}-{h64}
version = "1.{n2}.{n2}+{h7}"
https://cdn.example.org/app.{h20}.js
eyJ is how base64 of JSON begins
jwt.decode(token, algorithms=["HS256"])
ISBN 978-0-{n3}-{n5}-{n1}
"nonce": {n10}
blob {b60}
"""


def _texts(lines: str, each: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    for number, line in enumerate(filter(None, lines.split("\n"))):
        for turn in range(each):
            yield _filled(random.Random(f"{number} {turn}"), line.replace("¶", "\n"))


def _filled(rng: random.Random, line: str) -> tuple[str, list[tuple[int, int]]]:
    text, spans, at = "", [], 0
    for slot in _SLOT.finditer(line):
        text += line[at : slot.start()]
        value = _drawn(rng, slot)
        spans.append((len(text), len(text) + len(value)))
        text, at = text + value, slot.end()
    return text + line[at:], spans


def test_of_secrets_in_everyday_surroundings_at_most_two_in_a_hundred_are_missed() -> None:
    texts = list(_texts(POSITIVE, 5))
    missed = [
        text
        for text, spans in texts
        if not any(f.start < end and start < f.end for f in secrets.scan(text) for start, end in spans)
    ]
    assert len(missed) <= 0.02 * len(texts), missed


def test_of_texts_without_a_secret_hardly_any_is_flagged() -> None:
    texts = [text for text, _ in _texts(NEGATIVE, 5)]
    flagged = [(text, f.type, text[f.start : f.end]) for text in texts for f in secrets.scan(text)]
    assert len(flagged) <= 0.005 * len(texts), flagged
